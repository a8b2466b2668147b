"""What a miss costs: the samples of some items through features and predictor to the model's outputs.

What belongs here: the steps between a capture and the model's numbers for it. What does not: the cache around them, the
choice of the arm, and the meaning of the numbers for a client.

    items ─▶ samples checked ─▶ log-mel ─▶ predictor ─▶ outputs checked ─▶ one answer for each item
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oip.messages import InferRequest, InferResponse, Tensor
from transformer.answer import Estimate, parse_answer
from transformer.answer_cache import ComputedAnswer
from transformer.cache_entry import ItemAnswer, join_outputs, split_outputs
from transformer.errors import BadSamples, InvalidModelOutput, TransformerError, UnusableSamples
from transformer.iq import parse_samples
from transformer.localization import Features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oip.messages import Array
    from transformer.described_model import DescribedModel


class ModelReplaced(TransformerError):
    """The arm serves another model by now than the one that it was asked as.

    Args:
        served: The model that it serves, where its answer told.
    """

    def __init__(self, served: DescribedModel) -> None:
        super().__init__(f"the predictor serves version {served.version} by now")
        self.served = served


def extract_features(
    iq: Array, indices: Sequence[int], model: DescribedModel, full_scale_dbm: float | None
) -> Features:
    """Samples of some items → checks → log-mel, by the model's contract.

    Args:
        iq: Every item of the request, [B, R, N, 2].
        indices: The items that are wanted, in rising order.
        model: Whose contract it is.
        full_scale_dbm: Power of a full-scale sample; None: as the contract says.

    Raises:
        BadSamples: A sample that is not finite; the message names the item by its place in the request.
        UnusableSamples: A dead receiver, or a power that no receiver delivers.
    """
    whole = len(indices) == len(iq)
    try:
        samples = parse_samples(iq if whole else iq[list(indices)], model.contract, full_scale_dbm)
    except (BadSamples, UnusableSamples):
        if not whole:  # the same fault, found again where its item has its own number
            parse_samples(iq, model.contract, full_scale_dbm)
        raise
    return Features(model.log_mel(samples.iq, full_scale_dbm), samples.degraded)


def predictor_request(features: Features, model: DescribedModel) -> InferRequest:
    """What the predictor is sent: the features, and the contract that they were built by."""
    return InferRequest(
        inputs=(Tensor(model.contract.features.input, features.log_mel),),
        parameters={"contract_digest": model.contract.digest},
        binary_output=True,
    )


def reader(features: Features, model: DescribedModel) -> Callable[[InferResponse], tuple[ComputedAnswer, ...]]:
    """Reads the predictor's answer to these features, and passes on what was doubtful about them."""

    def read(response: InferResponse) -> tuple[ComputedAnswer, ...]:
        names = model.contract.outputs
        arrays = {tensor.name: tensor.array for tensor in response.outputs}
        for name in (names.position, names.uncertainty, *([names.confidence] if names.confidence else [])):
            if name not in arrays:
                raise InvalidModelOutput(f"{name}: is missing")
        position, uncertainty = arrays[names.position], arrays[names.uncertainty]
        confidence = arrays[names.confidence] if names.confidence else None
        estimate = parse_answer(position, uncertainty, confidence, model.contract)
        if len(estimate.latitude) != len(features.log_mel):
            raise InvalidModelOutput(f"{names.position}: holds another number of items than were asked for")
        answers = split_outputs(position, uncertainty, confidence)
        reasons = zip(features.degraded, estimate.degraded, strict=True)
        return tuple(
            ComputedAnswer(answer, samples + outputs)
            for answer, (samples, outputs) in zip(answers, reasons, strict=True)
        )

    return read


def estimate_of(answers: Sequence[ItemAnswer], model: DescribedModel) -> Estimate:
    """The estimates [B] of answers, computed now or stored before."""
    outputs = join_outputs(answers)
    return parse_answer(outputs.position, outputs.uncertainty, outputs.confidence, model.contract)


def served_by(response: InferResponse, model: DescribedModel) -> DescribedModel:
    """The model with the version and digest that the answer names: another one may serve the same contract by now."""
    digest = response.parameters.get("model_digest")
    version = response.model_version or model.version
    model_digest = digest if isinstance(digest, str) else model.model_digest
    if (version, model_digest) == (model.version, model.model_digest):
        return model
    return replace(model, version=version, model_digest=model_digest)
