"""What an A/B experiment showed: each arm's figures beside the other's, and no verdict.

What belongs here: the figures as a value, as text and as JSON. What does not: who gets which arm (the transformer), and
where the counts come from (`prometheus`). Which of two versions is wanted is for people to say: they know what the
experiment was for.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rollout.figures import QUANTILES, ArmFigures, Interval, arm_figures, quantile
from rollout.live_evidence import largest_difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from rollout.measurements import ArmCounts, LiveDistributions

_MEDIAN = 0.5
"""What is told of live distributions."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of an experiment.

    Attributes:
        name: As the transformer calls it.
        revision: Its pods'.
        version: Of its model.
        percent: Of the requests that it is meant to get; None where it is not known.
        figures: Of its calls; None if there were none.
        area_m2: Median area of the 95 % ellipses that clients were given.
        confidence: Median of the model's own confidence.
        answers: To clients, those from the cache included.
    """

    name: str
    revision: str
    version: str
    percent: float | None
    figures: ArmFigures | None
    area_m2: Interval | None
    confidence: Interval | None
    answers: float


@dataclass(frozen=True, slots=True)
class AbReport:
    """What was seen of all arms between two moments.

    Attributes:
        service: The InferenceService.
        began_at: From when on was counted.
        ended_at: Until when.
        arms: Each of them.
        area_difference: Largest difference of the first two arms' distributions of ellipse areas, 0 to 1.
        confidence_difference: The same of their confidences.
    """

    service: str
    began_at: datetime
    ended_at: datetime
    arms: tuple[Arm, ...]
    area_difference: float | None = None
    confidence_difference: float | None = None

    def as_json(self) -> str:
        """For programs: every figure with its interval, null where nothing is known or an end is infinite."""
        return json.dumps(_finite(asdict(self)), indent=1, default=str, allow_nan=False)

    def as_text(self) -> str:
        """For people: a table with one column for each arm."""
        rows = [["", *(f"{arm.name} ({arm.version})" for arm in self.arms)], *_rows(self.arms)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
        period = f"{self.began_at:%Y-%m-%d %H:%M:%S} to {self.ended_at:%Y-%m-%d %H:%M:%S %Z}".rstrip()
        return "\n".join([f"{self.service}, {period}", *(line.rstrip() for line in table), *self._differences()])

    def _differences(self) -> Iterator[str]:
        for name, difference in (
            ("ellipse areas", self.area_difference),
            ("confidences", self.confidence_difference),
        ):
            if difference is not None:
                yield f"the distributions of {name} differ by at most {difference:.1%}"


def measured_arm(
    name: str,
    revision: str,
    version: str,
    *,
    percent: float | None = None,
    counts: ArmCounts | None = None,
    live: LiveDistributions | None = None,
) -> Arm:
    """One arm's figures from what was counted."""
    return Arm(
        name,
        revision,
        version,
        percent,
        None if counts is None else arm_figures(counts),
        None if live is None else quantile(live.area_m2, _MEDIAN),
        None if live is None else quantile(live.confidence, _MEDIAN),
        0.0 if live is None else live.area_m2.total,
    )


def differences(stable: LiveDistributions, canary: LiveDistributions) -> tuple[float | None, float | None]:
    """Of ellipse areas and of confidences; None without values."""
    return largest_difference(canary.area_m2, stable.area_m2), largest_difference(canary.confidence, stable.confidence)


def _rows(arms: tuple[Arm, ...]) -> Iterator[list[str]]:
    yield ["revision", *(arm.revision for arm in arms)]
    yield ["share", *("–" if arm.percent is None else f"{arm.percent:g} %" for arm in arms)]
    yield ["answers to clients", *(f"{arm.answers:g}" for arm in arms)]
    yield ["ellipse area, median", *(_text(arm.area_m2, " km²", 1e-6) for arm in arms)]
    yield ["confidence, median", *(_text(arm.confidence) for arm in arms)]
    figures = [arm.figures for arm in arms]
    yield ["calls of the predictor", *("–" if one is None else f"{one.calls:g}" for one in figures)]
    yield ["failed", *("–" if one is None else f"{one.errors:g}" for one in figures)]
    yield ["failed, share", *(_text(None if one is None else one.error_ratio, " %", 100.0) for one in figures)]
    for index, probability in enumerate(QUANTILES):
        durations = [None if one is None else one.quantiles_s[index] for one in figures]
        yield [f"latency, {probability:.0%} quantile", *(_text(one, " ms", 1e3) for one in durations)]


def _text(interval: Interval | None, unit: str = "", scale: float = 1.0) -> str:
    return "–" if interval is None else interval.text(unit, scale)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    """The same without what JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return value
