"""The values between the steps of the request path.

What belongs here: frozen results of steps. What does not: the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oip.messages import Array
    from transformer.answer import Estimate
    from transformer.arms import Arm
    from transformer.described_model import DescribedModel
    from transformer.ellipse import Ellipses

Reasons = tuple[tuple[str, ...], ...]
"""For each item of a batch, why its answer deserves less trust; mostly empty."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What goes to the predictor: log-mel FP32 [B,R,T,F], and what was doubtful about the samples."""

    log_mel: Array
    degraded: Reasons


@dataclass(frozen=True, slots=True, eq=False)
class Localization:
    """One answered query: the estimates [B], their doubts, which came from the cache, and who made them."""

    estimate: Estimate
    degraded: Reasons
    cached: tuple[bool, ...]
    arm: Arm
    model: DescribedModel

    def ellipses(self, confidence_level: float) -> Ellipses:
        """The ellipses [B] that hold the transmitter with this probability, by the model's own scale."""
        return self.estimate.ellipses(self.model.contract.ellipse_scale.k(confidence_level))


def join_reasons(first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]) -> Reasons:
    """The reasons of both steps, item by item."""
    return tuple(one + other for one, other in zip(first, second, strict=True))
