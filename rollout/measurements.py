"""What is measured of a canary, as values.

What belongs here: the figures of a release, and whether they can be true. What does not: where they come from
(Prometheus, the probe set), and what they mean for the release (`assess`).

Counts are floats, because that is what Prometheus answers, NaN for "no such series" included. They are differences of
counters since the step began, never `increase()`, which extrapolates to fractions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.arrays import F64, I64, Bools


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one arm's predictor since the step began, by what came of them.

    A 409 is how contracts are exchanged, and the call is repeated: it is counted nowhere here.

    Attributes:
        succeeded: Answered 2xx with an answer that makes sense.
        refused: Answered 4xx. The transformer has checked the client's request before, so that this is the arm's fault.
        failed: Answered 5xx.
        unreachable: Without an answer, because the connection failed.
        timed_out: Without an answer in time.
        invalid: Answered 2xx with positions or uncertainties that make no sense.
    """

    succeeded: float
    refused: float = 0.0
    failed: float = 0.0
    unreachable: float = 0.0
    timed_out: float = 0.0
    invalid: float = 0.0

    @property
    def errors(self) -> float:
        """Everything but successes."""
        return self.refused + self.failed + self.unreachable + self.timed_out + self.invalid

    @property
    def total(self) -> float:
        """All calls."""
        return self.succeeded + self.errors


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell between the bounds.

    Attributes:
        bounds: Upper bounds of the buckets, increasing, without the infinite one.
        counts: Values per bucket, not cumulative; one more than bounds, the last for everything above them.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no histogram; raises `ValueError`."""
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.bounds)} bounds need {len(self.bounds) + 1} counts, not {len(self.counts)}")
        if any(high <= low for low, high in itertools.pairwise(self.bounds)):
            raise ValueError("the bounds of a histogram increase")

    @property
    def total(self) -> float:
        """All values."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """One arm since the step began.

    Attributes:
        calls: Of its predictor.
        latency_s: Durations of cache misses in seconds, without a revision's and a transformer process's first seconds.
    """

    calls: Calls
    latency_s: Histogram

    def numbers(self) -> Iterator[tuple[str, float]]:
        """Every count with its name."""
        yield from zip(Calls.__dataclass_fields__, astuple(self.calls), strict=True)
        yield from ((f"latency bucket {index}", count) for index, count in enumerate(self.latency_s.counts))


@dataclass(frozen=True, slots=True)
class Look:
    """Both arms at one moment; None for an arm that nothing is known of.

    Attributes:
        elapsed_s: Since the step began.
        stable: The arm that is known to be good.
        canary: The arm on trial.
    """

    elapsed_s: float
    stable: ArmCounts | None
    canary: ArmCounts | None


@dataclass(frozen=True, slots=True, eq=False)
class ProbeAnswers:
    """One version's answers to the K captures of the probe set.

    Attributes:
        error_m: [K,2] FP64, east and north in metres of the truth as seen from the answer; NaN where there is none.
        covariance_m2: [K,2,2] FP64, east, north, m².
        inside: [K,L] whether the truth lies in the served ellipse of each of the probe set's levels.
        confidence: [K] FP64, the model's own.
    """

    error_m: F64
    covariance_m2: F64
    inside: Bools
    confidence: F64


@dataclass(frozen=True, slots=True, eq=False)
class ProbeResults:
    """Both versions' answers to the same captures, in the same order.

    Attributes:
        levels: [L] confidence levels of the served ellipses, for example 0.95.
        position: [K] INT64, the transmitter position that each capture is from: those of one are not independent.
        stable: The champion's answers.
        canary: The challenger's.
    """

    levels: tuple[float, ...]
    position: I64
    stable: ProbeAnswers
    canary: ProbeAnswers


@dataclass(frozen=True, slots=True)
class LiveDistributions:
    """What clients of one version were told.

    Attributes:
        area_m2: Area of the 95 % ellipse.
        confidence: The model's own, 0 to 1.
    """

    area_m2: Histogram
    confidence: Histogram


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far apart both versions put the same captures.

    Attributes:
        captures: How many were compared.
        median_m: Median distance of the two positions.
        outside: Captures for which each position lies outside of the other version's 95 % ellipse.
    """

    captures: int
    median_m: float
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """Everything that a step is judged by.

    Attributes:
        looks: The step's looks, oldest first; each contains those before it.
        probe: Results of the probe set; None before it was run.
        live: Per version, stable then canary; None where nothing was asked for.
        disagreement: None where nothing was compared.
    """

    looks: tuple[Look, ...]
    probe: ProbeResults | None = None
    live: tuple[LiveDistributions, LiveDistributions] | None = None
    disagreement: Disagreement | None = None


def contradictions(looks: tuple[Look, ...]) -> tuple[str, ...]:
    """What cannot be true, in sentences: negative counts, counts and clocks that go backwards, changing bounds."""
    found = [
        f"{arm} has {value:g} in {name}"
        for look in looks
        for arm, counts in _arms(look)
        for name, value in counts.numbers()
        if value < 0.0
    ]
    for before, after in itertools.pairwise(looks):
        found += _backwards(before, after)
    return tuple(dict.fromkeys(found))


def _backwards(before: Look, after: Look) -> Iterator[str]:
    if after.elapsed_s < before.elapsed_s:
        yield f"the time since the step's start fell from {before.elapsed_s:g} s to {after.elapsed_s:g} s"
    earlier = dict(_arms(before))
    for arm, counts in _arms(after):
        if arm not in earlier:
            continue
        if counts.latency_s.bounds != earlier[arm].latency_s.bounds:
            yield f"the bounds of {arm}'s latency buckets changed"
            continue
        for (name, old), (_, new) in zip(earlier[arm].numbers(), counts.numbers(), strict=True):
            if new < old:
                yield f"{arm}'s count of {name} fell from {old:g} to {new:g}"


def unknown(look: Look) -> tuple[str, ...]:
    """What is missing from a look, in sentences: an arm, or counts that are not numbers."""
    found = [f"nothing is known of {arm}" for arm in ("stable", "canary") if getattr(look, arm) is None]
    for arm, counts in _arms(look):
        missing = [name for name, value in counts.numbers() if not math.isfinite(value)]
        if missing:
            found.append(f"{arm} has no number for {', '.join(missing[:3])}")
    return tuple(found)


def _arms(look: Look) -> Iterator[tuple[str, ArmCounts]]:
    if look.stable is not None:
        yield "stable", look.stable
    if look.canary is not None:
        yield "canary", look.canary
