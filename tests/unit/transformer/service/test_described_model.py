from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from oip.messages import ModelMetadata
from transformer.described_model import MAX_ARMS, ModelDirectory, describe
from transformer.errors import BadContract, PredictorUnreachable

if TYPE_CHECKING:
    from transformer.arms import Arm


def _grow_older(directory: ModelDirectory, arm: Arm, seconds: float) -> None:
    """Let what is known of the arm be that much older."""
    directory._known[arm.base_url, arm.revision].begun_s -= seconds  # noqa: SLF001 - a minute is too long for a test


def test_description(predictor: Any) -> None:  # noqa: ANN401 - of conftest.py
    """Version, digest and contract come from the metadata, and the extractor is built by that contract."""
    model = describe(predictor.described())
    assert (model.version, model.model_digest) == ("3", "sha256:3")
    assert model.contract.samples == 640
    assert model.contract.digest.startswith("sha256:")
    assert describe(replace(predictor.described(), versions=())).version == "1"


def test_a_model_without_contract_is_refused() -> None:
    """The message tells the operator the two ways to give a model its contract."""
    with pytest.raises(BadContract, match=r"heimdall\.contract.*contract\.json"):
        describe(ModelMetadata("m", "onnx", (), ()))


async def test_concurrent_callers_share_one_fetch(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Ten requests at the start ask the predictor once; the answer is kept."""
    directory = ModelDirectory(predictor)
    assert directory.known(arm) is None
    models = await asyncio.gather(*(directory.model_of(arm) for _ in range(10)))
    assert len(set(map(id, models))) == predictor.metadata_calls == 1
    assert directory.known(arm) is models[0]


async def test_a_caller_that_leaves_does_not_end_the_fetch(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A cancelled request leaves the others waiting for the same answer."""
    directory, predictor.hold = ModelDirectory(predictor), asyncio.Event()
    first, second = (asyncio.create_task(directory.model_of(arm)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert directory.known(arm) is None
    predictor.hold.set()
    assert (await second).version == "3"
    assert first.cancelled()
    assert predictor.metadata_calls == 1


async def test_a_failure_is_not_kept(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Whoever waited hears of the failure; the next call asks again, even if nobody was left to hear."""
    directory = ModelDirectory(predictor)
    predictor.metadata_error = PredictorUnreachable("gone")
    with pytest.raises(PredictorUnreachable):
        await directory.model_of(arm)
    predictor.hold = asyncio.Event()
    left = asyncio.create_task(directory.model_of(arm))
    await asyncio.sleep(0)
    left.cancel()
    predictor.hold.set()
    await asyncio.sleep(0.01)
    predictor.metadata_error = predictor.hold = None
    assert (await directory.model_of(arm)).version == "3"


async def test_only_the_stale_model_is_forgotten(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A late request that still complains about the old model does not throw the new one away."""
    directory = ModelDirectory(predictor)
    old = await directory.model_of(arm)
    directory.forget(arm, old)
    new = await directory.model_of(arm)
    directory.forget(arm, old)
    assert directory.known(arm) is new
    directory.update(arm, replace(new, version="4"))
    assert (await directory.model_of(arm)).version == "4"
    assert predictor.metadata_calls == 2


async def test_a_replaced_model_is_noticed_where_no_revision_is_known(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A description beyond its age is asked for anew before it is used; the same model stays the same object."""
    directory = ModelDirectory(predictor, max_age_s=60.0)
    old = await directory.model_of(arm)
    _grow_older(directory, arm, 61.0)
    assert await directory.model_of(arm) is old
    assert predictor.metadata_calls == 2
    predictor.version = "4"
    _grow_older(directory, arm, 61.0)
    both = await asyncio.gather(directory.model_of(arm), directory.model_of(arm))
    assert [model.version for model in both] == ["4", "4"]
    assert predictor.metadata_calls == 3


async def test_traffic_does_not_wait_for_news(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """In the second half of its age a description is given at once, and replaced behind the caller's back."""
    directory = ModelDirectory(predictor, max_age_s=60.0)
    old = await directory.model_of(arm)
    _grow_older(directory, arm, 40.0)
    predictor.version, predictor.hold = "4", asyncio.Event()
    assert await directory.model_of(arm) is old
    assert await directory.model_of(arm) is old
    await asyncio.sleep(0)
    assert predictor.metadata_calls == 2
    predictor.hold.set()
    await asyncio.sleep(0.01)
    assert (await directory.model_of(arm)).version == "4"


async def test_a_revision_is_asked_once(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Knative never puts another model behind a revision; another revision behind the same host is another model."""
    directory = ModelDirectory(predictor, max_age_s=0.0)
    first, second = replace(arm, revision="loc-1"), replace(arm, revision="loc-2")
    old = await directory.model_of(first)
    predictor.version = "4"
    await asyncio.sleep(0.01)
    assert await directory.model_of(first) is old
    assert predictor.metadata_calls == 1
    assert (await directory.model_of(second)).version == "4"


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_predictor_that_cannot_be_asked_again(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    arm: Arm,
    *,
    forgotten: bool,
) -> None:
    """The old description stays for as long again, unless it has turned out to be wrong meanwhile."""
    directory = ModelDirectory(predictor, max_age_s=60.0)
    old = await directory.model_of(arm)
    _grow_older(directory, arm, 61.0)
    predictor.metadata_error, predictor.hold = PredictorUnreachable("gone"), asyncio.Event()
    waiting = asyncio.create_task(directory.model_of(arm))
    await asyncio.sleep(0.01)
    if forgotten:
        directory.forget(arm, old)
    predictor.hold.set()
    assert await waiting is old
    assert directory.known(arm) is (None if forgotten else old)
    if not forgotten:
        assert await directory.model_of(arm) is old
        assert predictor.metadata_calls == 2


async def test_arms_of_the_past_are_forgotten(predictor: Any, arm: Arm) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A transformer that sees many releases keeps the latest few; the oldest goes first."""
    directory = ModelDirectory(predictor)
    arms = [replace(arm, revision=f"loc-{index}") for index in range(MAX_ARMS + 2)]
    for one in arms:
        await directory.model_of(one)
    assert [directory.known(one) is None for one in arms] == [True, True] + [False] * MAX_ARMS
