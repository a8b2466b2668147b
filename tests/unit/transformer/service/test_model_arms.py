"""The request path while a canary is live: `transformer.model` with two arms."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip import errors as oip_errors
from oip.messages import CallContext, InferRequest, InferResponse, Tensor
from transformer import model as module
from transformer.errors import GatewayRefused, PredictorRefused, PredictorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import Array
    from transformer.arms import Arms
    from transformer.model import LocalizationTransformer

    Split = Callable[[int | None], Arms]


async def _infer(
    model: LocalizationTransformer,
    iq: Array,
    context: CallContext,
    version: str | None = None,
    **parameters: Any,  # noqa: ANN401 - any parameter
) -> InferResponse:
    return await model.infer("localization", version, InferRequest((Tensor("iq", iq),), parameters=parameters), context)


async def _reached(predictor: Any) -> None:  # noqa: ANN401 - of conftest.py
    """Wait until the predictor has been asked for its description, or for an answer."""
    async with asyncio.timeout(10.0):
        while not predictor.metadata_calls:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)


async def _held(
    model: LocalizationTransformer,
    canary: Any,  # noqa: ANN401 - of conftest.py
    iq: Array,
    context: CallContext,
) -> asyncio.Task[InferResponse]:
    """A request that has reached the canary, whose answer waits for `canary.hold`."""
    canary.hold = asyncio.Event()
    pending = asyncio.create_task(_infer(model, iq, context))
    await _reached(canary)
    return pending


def _said(response: InferResponse) -> tuple[object, object, object]:
    return response.parameters["arm"], response.model_version, response.parameters["cached"]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What chance will say, one number for a request; 0.99 when there is none left."""
    numbers: list[float] = []
    monkeypatch.setattr(module.random, "random", lambda: numbers.pop(0) if numbers else 0.99)
    return numbers


async def test_each_arm_has_contract_and_cache_of_its_own(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    predictor: Any,  # noqa: ANN401 - of conftest.py
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A hit on one arm is no hit on the other; each arm's features have the layout of its contract."""
    split(20)
    draws.extend([0.1, 0.9, 0.1, 0.9])
    found = [_said(await _infer(model, iq, context)) for _ in range(4)]
    first, second = ("canary", "4"), ("stable", "3")
    assert found == [(*first, "[false]"), (*second, "[false]"), (*first, "[true]"), (*second, "[true]")]
    assert [request.inputs[0].shape[-1] for request, _ in (*canary.requests, *predictor.requests)] == [64, 128]


async def test_a_session_stays(model: LocalizationTransformer, split: Split, iq: Array, context: CallContext) -> None:
    """The same session meets the same arm every time, and some sessions meet either."""
    split(50)
    met = {
        session: {_said(await _infer(model, iq, context, session_id=session))[0] for _ in range(3)}
        for session in map(str, range(12))
    }
    assert all(len(arms) == 1 for arms in met.values())
    assert set.union(*met.values()) == {"stable", "canary"}


async def test_pinned_versions(
    model: LocalizationTransformer,
    split: Split,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A version in the URL is answered by the arm that serves it, at 0 percent too, and by no other."""
    split(0)
    predictor.metadata_error = PredictorUnreachable("gone")
    with pytest.raises(oip_errors.Unavailable, match="gone"):  # perhaps that arm serves it
        await _infer(model, iq, context, "5")
    assert _said(await _infer(model, iq, context, "4"))[:2] == ("canary", "4")
    predictor.metadata_error = None
    assert _said(await _infer(model, iq, context, "3"))[:2] == ("stable", "3")
    with pytest.raises(oip_errors.NotFound, match="it has 3, 4"):
        await _infer(model, iq, context, "5")
    assert _said(await _infer(model, iq, context, "4"))[:2] == ("canary", "4")
    assert (await model.described("4")).version == "4"


async def test_a_version_that_nobody_serves(
    model: LocalizationTransformer,
    split: Split,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
) -> None:
    """A revision never changes its model: asking for a missing version costs the predictors nothing, and no hit."""
    split(20)
    for _ in range(5):
        with pytest.raises(oip_errors.NotFound, match="it has 3, 4"):
            await model.described("999")
    assert (predictor.metadata_calls, canary.metadata_calls) == (1, 1)
    assert (await model.described("4")).version == "4"
    assert canary.metadata_calls == 1


async def test_a_version_that_nobody_serves_without_revisions(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
) -> None:
    """Where another model may be behind the host by now, it is asked once more, and what it said is kept."""
    for asked in range(2, 5):
        with pytest.raises(oip_errors.NotFound, match="it has 3"):
            await model.described("999")
        assert predictor.metadata_calls == asked
    assert (await model.described("3")).version == "3"
    assert predictor.metadata_calls == asked


@pytest.mark.parametrize(
    "death", [PredictorUnreachable("gone"), GatewayRefused("no route", status=404), GatewayRefused("busy", status=503)]
)
async def test_a_dead_canary_falls_to_stable(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    counted: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
    death: Exception,
) -> None:
    """The client of a canary that is gone is answered by the stable arm, and the failure counts against the canary."""
    split(20)
    for place in ("metadata_error", "error"):
        draws.append(0.1)
        setattr(canary, place, death)
        assert _said(await _infer(model, iq, context, cache=False))[:2] == ("stable", "3")
        canary.metadata_error = None
    code = str(death.status) if isinstance(death, GatewayRefused) else "unreachable"
    assert counted("upstream_requests", arm="canary", revision="loc-2", code=code) == 2
    assert counted("upstream_requests", arm="stable", revision="loc-1", code="200") == 2


async def test_a_pinned_request_never_leaves_its_arm(
    model: LocalizationTransformer,
    split: Split,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """Another version is no answer to a request for this one; its own arm is asked a second time."""
    split(20)
    await _infer(model, iq, context, "4")
    canary.error = PredictorUnreachable("gone")
    with pytest.raises(oip_errors.Unavailable, match="gone"):
        await _infer(model, iq, context, "4", cache=False)
    assert (len(canary.requests), len(predictor.requests)) == (3, 0)


@pytest.mark.parametrize("ending", [None, 0], ids=["gone", "at 0 percent"])
async def test_an_arm_that_is_withdrawn_at_work(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
    ending: int | None,
) -> None:
    """After the status shows the end of a canary no answer of it leaves, not even one that was computed before."""
    split(20)
    draws.append(0.1)
    pending = await _held(model, canary, iq, context)
    split(ending)
    canary.hold.set()
    assert _said(await pending)[:2] == ("stable", "3")


async def test_a_promoted_canary_keeps_its_answers(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    watch: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A promotion is no withdrawal: the same revision has answered, whatever its arm is called by now."""
    canary_arm = split(20).canary
    assert canary_arm is not None
    draws.append(0.1)
    pending = await _held(model, canary, iq, context)
    stable = type(canary_arm)("stable", "http://predictor", 100, canary_arm.revision)
    watch.snapshot = replace(watch.snapshot, arms=type(watch.arms)(stable))
    canary.hold.set()
    assert (await pending).model_version == "4"


async def test_a_conflict_is_settled_on_the_same_arm(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A canary with another contract than it had is asked again itself; its evidence is not given to the stable arm."""
    split(20)
    draws.extend([0.1, 0.1])
    await _infer(model, iq, context)
    canary.document["features"]["bands"] = 32
    assert _said(await _infer(model, iq, context, cache=False))[:2] == ("canary", "4")
    assert [request.inputs[0].shape[-1] for request, _ in canary.requests] == [64, 64, 32]
    assert predictor.requests == []


async def test_what_the_canary_says_is_the_answer(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    canary: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """Errors of the model itself and answers without sense reach the client: hiding them would hide a bad canary."""
    split(20)
    draws.extend([0.1, 0.1])
    canary.error = PredictorRefused("the model failed", status=500)
    with pytest.raises(oip_errors.InternalError, match="the model failed"):
        await _infer(model, iq, context)
    canary.error, canary.outputs = None, {"position": np.float64([[99.0, 8.0]])}
    with pytest.raises(oip_errors.BadUpstream, match="invalid model output"):
        await _infer(model, iq, context)
    assert predictor.requests == []


async def test_a_stable_host_that_is_gone_falls_to_the_ordinary_one(
    model: LocalizationTransformer,
    split: Split,
    draws: list[float],
    network: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """At a promotion the ingress forgets the stable arm's tag before the status says so; no client notices."""

    class Gone:
        """Its route is no more."""

        async def metadata(self, _base_url: str) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
            """See `PredictorClient`."""
            raise GatewayRefused("no route", status=404)

    split(20)
    draws.append(0.9)
    network.hosts["http://prev-predictor"] = Gone()
    assert _said(await _infer(model, iq, context))[:2] == ("stable", "3")
