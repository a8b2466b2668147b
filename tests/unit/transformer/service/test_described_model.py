from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from oip.messages import ModelMetadata
from transformer.described_model import ModelDirectory, describe
from transformer.errors import BadContract, PredictorUnreachable

if TYPE_CHECKING:
    from transformer.arms import Arm


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


async def test_concurrent_callers_share_one_fetch(predictor: Any, arm: Arm) -> None:  # noqa: ANN401
    """Ten requests at the start ask the predictor once; the answer is kept."""
    directory = ModelDirectory(predictor)
    assert directory.known(arm) is None
    models = await asyncio.gather(*(directory.model_of(arm) for _ in range(10)))
    assert len(set(map(id, models))) == predictor.metadata_calls == 1
    assert directory.known(arm) is models[0]


async def test_a_caller_that_leaves_does_not_end_the_fetch(predictor: Any, arm: Arm) -> None:  # noqa: ANN401
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


async def test_a_failure_is_not_kept(predictor: Any, arm: Arm) -> None:  # noqa: ANN401
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


async def test_only_the_stale_model_is_forgotten(predictor: Any, arm: Arm) -> None:  # noqa: ANN401
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
