from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip import errors as oip_errors
from oip.messages import CallContext, InferRequest, RequestedOutput, Tensor
from transformer import model as module
from transformer import processing
from transformer.errors import PredictorRefused, PredictorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import Array
    from transformer.model import LocalizationTransformer

    MakeModel = Callable[..., LocalizationTransformer]


def _request(iq: Array, *outputs: str, **parameters: Any) -> InferRequest:  # noqa: ANN401 - any parameter
    asked = tuple(map(RequestedOutput, outputs))
    return InferRequest((Tensor("iq", iq),), id="7", parameters=parameters, outputs=asked)


def _captures(iq: Array, count: int) -> Array:
    """As many different captures [count,R,N,2]."""
    return np.concatenate([iq * np.float32(1.0 - 0.01 * index) for index in range(count)])


async def test_an_answer(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of conftest.py
    iq: Array,
    context: CallContext,
) -> None:
    """Features of the contract's shape go to the predictor with its digest; its answer comes back with its version."""
    response = await model.infer("localization", None, _request(_captures(iq, 3)), context)
    assert response.output("position").array.tolist() == [[45.0, 8.0], [45.01, 8.0], [45.02, 8.0]]
    assert (response.id, response.model_version, response.parameters["model_digest"]) == ("7", "3", "sha256:3")
    assert response.parameters["cached"] == "[false,false,false]"
    request, sent_context = predictor.requests[0]
    assert [(one.name, one.datatype, one.shape) for one in request.inputs] == [("log_mel", "FP32", (3, 7, 2, 128))]
    assert request.parameters == {"contract_digest": response.parameters["contract_digest"]}
    assert sent_context.request_id == context.request_id


async def test_the_predictor_gets_its_share_of_the_time(
    make_model: MakeModel,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """The call's deadline is the predictor's own timeout, or the request's where that is earlier."""
    model = make_model(predictor_request_timeout_seconds=5)
    await model.infer("localization", None, _request(iq, cache=False), context)
    await model.infer("localization", None, _request(iq, cache=False), CallContext(time.monotonic() + 2.0, "an-id"))
    first, second = (sent.deadline_s - time.monotonic() for _, sent in predictor.requests)
    assert 3.0 < first <= 5.0
    assert second <= 2.0


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("other", None, "no model 'other'"), ("localization", "9", "no version '9' here; it has 3")],
)
async def test_another_address(
    model: LocalizationTransformer, iq: Array, context: CallContext, name: str, version: str | None, message: str
) -> None:
    """Another name or version is 404 for inference, readiness and metadata alike."""
    for call in (
        model.infer(name, version, _request(iq), context),
        model.model_ready(name, version),
        model.model_metadata(name, version),
    ):
        with pytest.raises(oip_errors.NotFound, match=message):
            await call


async def test_a_new_contract_is_fetched_once(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A conflict leads to one fetch and one more try, with features of the new layout; the next request just works."""
    await model.infer("localization", None, _request(iq), context)
    predictor.document["features"]["bands"] = 64
    response = await model.infer("localization", None, _request(iq, cache=False), context)
    again = await model.infer("localization", None, _request(iq, cache=False), context)
    assert response.parameters["contract_digest"] == again.parameters["contract_digest"]
    assert [request.inputs[0].shape[-1] for request, _ in predictor.requests] == [128, 128, 64, 64]
    assert predictor.metadata_calls == 2


async def test_a_second_conflict_is_an_upstream_error(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A predictor that always disagrees is asked twice and no more."""
    predictor.error = PredictorRefused("another contract", status=409)
    with pytest.raises(oip_errors.BadUpstream, match="409"):
        await model.infer("localization", None, _request(iq), context)
    assert len(predictor.requests) == 2


async def test_other_refusals_are_not_repeated(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """Only a conflict is tried again."""
    predictor.error = PredictorRefused("busy", status=503, retry_after_s=4)
    with pytest.raises(oip_errors.Unavailable, match="busy") as caught:
        await model.infer("localization", None, _request(iq), context)
    assert (len(predictor.requests), caught.value.retry_after_s) == (1, 4)


async def test_a_new_version_without_conflict(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """The version in an answer is the one that answered, even if the contract stayed; a URL with the old one is 404."""
    first, *others = _captures(iq, 4)[:, None]
    await model.infer("localization", "3", _request(first), context)
    predictor.version = "4"
    with pytest.raises(oip_errors.NotFound, match="no version '3' here; it has 4"):
        await model.infer("localization", "3", _request(others[0]), context)
    response = await model.infer("localization", None, _request(others[1]), context)
    assert (response.model_version, response.parameters["model_digest"]) == ("4", "sha256:4")
    assert (await model.model_metadata("localization", "4")).versions == ("4",)
    predictor.version = "5"
    assert (await model.infer("localization", "5", _request(others[2]), context)).model_version == "5"


async def test_an_answer_of_a_new_version_is_not_stored_as_the_old_ones(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """A replaced model is noticed by its first answer, which is asked for again as what it is; then it is cached."""
    first, second = _captures(iq, 2)[:, None]
    await model.infer("localization", None, _request(first), context)
    predictor.version = "4"
    found = [await model.infer("localization", None, _request(one), context) for one in (second, first, first)]
    assert [one.model_version for one in found] == ["4", "4", "4"]
    assert [one.parameters["cached"] for one in found] == ["[false]", "[false]", "[true]"]
    assert len(predictor.requests) == 4


async def test_hits_answer_what_misses_answered(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    counted: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """Known items are answered bit for bit as before, at any level; the others go to the predictor in one call."""
    captures = _captures(iq, 3)
    miss = await model.infer("localization", None, _request(captures[:1]), context)
    hit = await model.infer("localization", None, _request(captures[:1], confidence_level=0.5), context)
    mixed = await model.infer("localization", None, _request(captures), context)
    for name in ("position", "covariance", "confidence"):
        assert hit.output(name).array.tobytes() == miss.output(name).array.tobytes()
    assert hit.output("ellipse").array[0, 0] < miss.output("ellipse").array[0, 0]
    assert (hit.parameters["cached"], mixed.parameters["cached"]) == ("[true]", "[true,false,false]")
    assert [len(request.inputs[0].array) for request, _ in predictor.requests] == [1, 2]
    assert (counted("cache_events", event="hit"), counted("cache_events", event="miss")) == (2, 3)


async def test_large_requests_are_hashed_off_the_loop(
    make_model: MakeModel, iq: Array, context: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing more than the limit is a thread's work, and gives the same keys."""
    monkeypatch.setattr(module, "INLINE_HASH_BYTES", iq.nbytes)
    names: list[str] = []
    original = module.item_keys

    def noted(*args: Any) -> Any:  # noqa: ANN401 - those of the original
        names.append(threading.current_thread().name)
        return original(*args)

    monkeypatch.setattr(module, "item_keys", noted)
    model = make_model()
    await model.infer("localization", None, _request(iq), context)
    mixed = await model.infer("localization", None, _request(_captures(iq, 2)), context)
    assert mixed.parameters["cached"] == "[true,false]"
    assert names[0] == threading.current_thread().name
    assert names[1].startswith("dsp")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"position": np.float64([[45.0, 8.0]] * 2)}, "position: holds another number of items"),
        ({"position": np.array(45.0)}, "position: must be floating point"),
        ({"position": np.array([[b"a", b"b"]], object)}, "position: must be floating point"),
        ({"position": np.float64([[np.nan, 8.0]])}, "position: item 0 is not finite"),
        ({"uncertainty": np.float32([[1.0, -1.0, 0.0]])}, "uncertainty: item 0 has a sigma"),
    ],
)
async def test_answers_that_make_no_sense(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
    outputs: dict[str, Array],
    message: str,
) -> None:
    """What cannot be a position with an uncertainty never reaches the client."""
    predictor.outputs = outputs
    if message.endswith("items"):
        predictor.outputs = outputs | {
            "uncertainty": np.ones((2, 3), np.float32),
            "confidence": np.ones((2, 1), np.float32),
        }
    with pytest.raises(oip_errors.BadUpstream, match=f"invalid model output: {message}"):
        await model.infer("localization", None, _request(iq), context)


async def test_bad_samples(model: LocalizationTransformer, iq: Array, context: CallContext) -> None:
    """The client's mistakes in samples and batch are refused before the predictor hears of them."""
    dead = iq.copy()
    dead[0, 2] = 0.0
    with pytest.raises(oip_errors.Unprocessable, match=r"receiver 2 \(Torino\)"):
        await model.infer("localization", None, _request(dead), context)
    with pytest.raises(oip_errors.InvalidRequest, match="257 items are too many for one request; at most 256"):
        await model.infer("localization", None, _request(np.ones((257, 7, 640, 2), np.int8)), context)
    with pytest.raises(oip_errors.InvalidRequest, match="shape"):
        await model.infer("localization", None, _request(np.float32(1.0).reshape(())), context)


async def test_full_scale_and_session(
    model: LocalizationTransformer,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    context: CallContext,
) -> None:
    """Half the amplitude at 20·log10(2) dB more full scale are the same features; the session is echoed."""
    await model.infer("localization", None, _request(iq), context)
    louder = -50.0 + 20.0 * float(np.log10(2.0))
    half = _request(iq / np.float32(2.0), full_scale_dbm=louder, session_id="s")
    assert (await model.infer("localization", None, half, context)).parameters["session_id"] == "s"
    first, second = (request.inputs[0].array for request, _ in predictor.requests)
    np.testing.assert_allclose(second, first, atol=1e-5)


async def test_a_full_queue(
    make_model: MakeModel,
    iq: Array,
    context: CallContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work that finds no thread and no place to wait is refused at once, with Retry-After; the rest is done."""
    monkeypatch.setattr(processing, "INLINE_SAMPLES", 0)
    model, release, original = make_model(dsp_threads=1, max_queue=1), threading.Event(), module.extract_features

    begun = threading.Event()

    def slow(*args: Any) -> Any:  # noqa: ANN401 - those of the original
        begun.set()
        assert release.wait(30.0)
        return original(*args)

    monkeypatch.setattr(module, "extract_features", slow)
    waiting = [
        asyncio.create_task(model.infer("localization", None, _request(one[None]), context)) for one in _captures(iq, 2)
    ]
    async with asyncio.timeout(10.0):
        while not begun.is_set() or model._processing._working < 2:  # noqa: ASYNC110, SLF001 - nothing else tells of it
            await asyncio.sleep(0.001)
    with pytest.raises(oip_errors.Unavailable, match="queue") as caught:
        await model.infer("localization", None, _request(iq, cache=False), context)
    assert caught.value.retry_after_s == 1
    release.set()
    assert [response.model_version for response in await asyncio.gather(*waiting)] == ["3", "3"]


async def test_readiness(model: LocalizationTransformer, predictor: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Ready is who could answer now: the predictor is, and its contract is known; afterwards it is served."""
    predictor.is_ready = False
    assert not await model.server_ready()
    assert not await model.model_ready("localization", None)
    predictor.is_ready = True
    for error in (PredictorUnreachable("gone"), oip_errors.BadUpstream("garbage")):
        predictor.metadata_error = error
        assert not await model.healthy()
    predictor.metadata_error, document = None, predictor.document
    predictor.document = None
    assert not await model.server_ready()
    predictor.document = document
    assert model.get_input_types() == model.get_output_types() == []
    assert await model.model_ready("localization", "3")
    assert (await model.described()).version == "3"
    assert model.get_input_types() == [{"name": "iq", "datatype": "FP32", "shape": [-1, 7, -1, 2]}]
    assert [one["name"] for one in model.get_output_types()][-1] == "geojson"
    assert model.server_metadata().name == "heimdall-transformer"
    model.stop()
    assert not await model.server_ready()


async def test_metadata_errors_are_translated(model: LocalizationTransformer, predictor: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A predictor that is away makes 503 of the description too."""
    predictor.metadata_error = PredictorUnreachable("gone")
    with pytest.raises(oip_errors.Unavailable, match="gone"):
        await model.model_metadata("localization", None)


@pytest.mark.parametrize(("items", "elsewhere"), [(4, False), (5, True)])
async def test_outlines_of_many_items_leave_the_event_loop(
    model: LocalizationTransformer,
    monkeypatch: pytest.MonkeyPatch,
    iq: Array,
    context: CallContext,
    items: int,
    *,
    elsewhere: bool,
) -> None:
    """An outline across the antimeridian takes milliseconds: a few are drawn in the loop, more in a thread."""
    threads = []
    respond = module.presentation.respond

    def watched(*args: Any) -> Any:  # noqa: ANN401 - those of the original
        threads.append(threading.current_thread())
        return respond(*args)

    monkeypatch.setattr(module.presentation, "respond", watched)
    captures = _captures(iq, items)
    response = await model.infer("localization", None, _request(captures, "geojson"), context)
    assert len(response.output("geojson").array) == items
    await model.infer("localization", None, _request(captures), context)
    assert [thread is not threading.main_thread() for thread in threads] == [elsewhere, False]
