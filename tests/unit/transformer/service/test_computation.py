from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from transformer.computation import (
    ModelReplaced,
    estimate_of,
    extract_features,
    predictor_request,
    reader,
    served_by,
)
from transformer.errors import BadSamples, InvalidModelOutput, UnusableSamples

if TYPE_CHECKING:
    from oip.messages import Array, CallContext, InferResponse
    from transformer.described_model import DescribedModel
    from transformer.localization import Features


@pytest.fixture
def batch(iq: Array) -> Array:
    """Three captures, each weaker than the one before."""
    return np.concatenate([iq * np.float32(scale) for scale in (1.0, 0.5, 0.25)])


def test_chosen_items_have_the_features_that_they_have_among_all(batch: Array, described: DescribedModel) -> None:
    """Only the misses of a batch are computed, and each gets what it would have got in the whole batch."""
    whole = extract_features(batch, (0, 1, 2), described, None)
    some = extract_features(batch, (0, 2), described, None)
    np.testing.assert_array_equal(some.log_mel, whole.log_mel[[0, 2]])
    assert some.degraded == ((), ())


@pytest.mark.parametrize("indices", [(1, 2), (0, 1, 2)])
def test_faults_name_the_item_of_the_request(batch: Array, described: DescribedModel, indices: tuple[int, ...]) -> None:
    """A bad item is named by its place in the request, whichever items were computed."""
    batch[2, 3] = 0.0
    with pytest.raises(UnusableSamples, match="item 2, receiver 3"):
        extract_features(batch, indices, described, None)
    batch[2, 3, 5] = np.nan
    with pytest.raises(BadSamples, match=r"item 2, receiver 3.*sample 5 is not finite"):
        extract_features(batch, indices, described, None)


def test_full_scale_reaches_check_and_features(iq: Array, described: DescribedModel) -> None:
    """The client's full scale is used for both; 40 dB more make a capture louder than the model has ever seen."""
    louder = extract_features(iq, (0,), described, -10.0)
    assert louder.degraded == (("power",),)
    assert louder.log_mel.mean() > extract_features(iq, (0,), described, None).log_mel.mean()


async def _answer(
    predictor: Any,  # noqa: ANN401 - of conftest.py
    features: Features,
    described: DescribedModel,
    context: CallContext,
) -> InferResponse:
    response: InferResponse = await predictor.infer("", predictor_request(features, described), context)
    return response


async def test_what_is_read_is_what_can_be_told(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    batch: Array,
    described: DescribedModel,
    context: CallContext,
) -> None:
    """Answers keep order, numbers and the reasons of samples and outputs; the estimate is made of them alone."""
    predictor.outputs = {"position": np.float64([[45.0, 8.0], [47.0, 8.0], [45.5, 8.5]])}
    features = replace(extract_features(batch, (0, 1, 2), described, None), degraded=((), ("clipped",), ("power",)))
    answers = reader(features, described)(await _answer(predictor, features, described, context))
    assert [one.answer.latitude for one in answers] == [45.0, 47.0, 45.5]
    assert [one.degraded[:1] for one in answers] == [(), ("clipped",), ("power",)]
    assert len(answers[1].degraded) == 2  # and outside of the model's region
    estimate = estimate_of([one.answer for one in answers], described)
    assert estimate.latitude.tolist() == [45.0, 47.0, 45.5]
    assert estimate.confidence.dtype == np.float32


async def test_an_output_that_is_missing(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    described: DescribedModel,
    context: CallContext,
) -> None:
    """The contract names the outputs; one that is not there is named."""
    features = extract_features(iq, (0,), described, None)
    response = await _answer(predictor, features, described, context)
    for name in ("position", "uncertainty", "confidence"):
        outputs = tuple(tensor for tensor in response.outputs if tensor.name != name)
        with pytest.raises(InvalidModelOutput, match=f"{name}: is missing"):
            reader(features, described)(replace(response, outputs=outputs))


async def test_a_model_without_confidence(
    contracts: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    described: DescribedModel,
    context: CallContext,
) -> None:
    """A contract without confidence asks for none."""
    contract = contracts.make(samples=640, features__frames=2, outputs__confidence=...)
    features = extract_features(iq, (0,), described, None)
    response = await _answer(predictor, features, described, context)
    (answer,) = reader(features, replace(described, contract=contract))(response)
    assert answer.answer.confidence is None


async def test_another_number_of_items(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    batch: Array,
    described: DescribedModel,
    context: CallContext,
) -> None:
    """Two answers to three items are nobody's."""
    features = extract_features(batch, (0, 1, 2), described, None)
    response = await _answer(predictor, features, described, context)
    fewer = tuple(replace(tensor, array=tensor.array[:2]) for tensor in response.outputs)
    with pytest.raises(InvalidModelOutput, match="another number of items"):
        reader(features, described)(replace(response, outputs=fewer))


async def test_who_served(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    described: DescribedModel,
    context: CallContext,
) -> None:
    """Version and digest of the answer count; an answer that tells neither was given by the model that was asked."""
    response = await _answer(predictor, extract_features(iq, (0,), described, None), described, context)
    assert served_by(response, described) is described
    assert served_by(replace(response, model_version=None, parameters={}), described) is described
    newer = served_by(replace(response, model_version="4"), described)
    assert (newer.version, newer.model_digest, newer.contract) == ("4", "sha256:3", described.contract)
    rebuilt = served_by(replace(response, parameters={"model_digest": "sha256:x"}), described)
    assert (rebuilt.version, rebuilt.model_digest) == ("3", "sha256:x")
    assert "version 4" in str(ModelReplaced(newer))
