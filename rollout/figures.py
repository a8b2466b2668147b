"""Figures for people, each with its interval: of an arm's live calls, and of a version's answers to the probe set.

What belongs here: pure functions from measurements to figures. What does not: verdicts, which come from tests of their
own (`assess`), and drawing (`plots`, `report`).

The intervals of live figures are confidence sequences, so they hold at 95 % however often one looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rollout.latency_evidence import quantile_bounds
from rollout.measurements import ProbeAnswers
from rollout.probe_evidence import answered, log_likelihoods, normalised_squares
from rollout.proportions import Counts, lower_bound, upper_bound
from rollout.resampling import Sums, by_position, lower_bounds, mean, t_scores, upper_bounds

if TYPE_CHECKING:
    from rollout.arrays import F64, I64, Bools
    from rollout.measurements import ArmCounts, Histogram, ProbeResults

QUANTILES = (0.5, 0.95, 0.99)

_ALPHA = 0.05
_RESAMPLES = 1_999
_FEWEST_POSITIONS = 10
"""With fewer, resampling positions says little."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the ends of its 95 % interval; an end may be infinite, all three are NaN where nothing is known."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a figure."""
        return not math.isnan(self.value)

    def text(self, unit: str = "", scale: float = 1.0) -> str:
        """The figure and its interval for people, times `scale` in `unit`; a dash where nothing is known."""
        if not self.known:
            return "–"
        value, low, high = (f"{scale * number:.4g}" for number in (self.value, self.low, self.high))
        return f"{value}{unit} ({low} to {high})"


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm's calls came to.

    Attributes:
        calls: All of them.
        errors: Those that failed, whatever the reason.
        error_ratio: Their share.
        durations: Successful calls whose duration was counted.
        quantiles_s: Of these durations, one for each of `QUANTILES`.
    """

    calls: float
    errors: float
    error_ratio: Interval
    durations: float
    quantiles_s: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """What one version's answers to the probe set are worth.

    Attributes:
        captures: Those that both versions answered.
        rms_m: Root mean square position error.
        nees: Mean eᵀΣ⁻¹e; 2 is honest.
        log_likelihood: Mean per capture, in nats per m².
        coverage: Of the ellipses of each of the probe set's levels.
    """

    captures: int
    rms_m: Interval
    nees: Interval
    log_likelihood: Interval
    coverage: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """Both versions, and the mean gain of log-likelihood per capture from stable to canary, in nats."""

    levels: tuple[float, ...]
    stable: VersionFigures
    canary: VersionFigures
    gain: Interval


def arm_figures(arm: ArmCounts) -> ArmFigures:
    """The figures of one arm."""
    calls, durations = arm.calls, arm.latency_s
    return ArmFigures(
        calls.total,
        calls.errors,
        share(calls.errors, calls.total),
        durations.total,
        tuple(quantile(durations, one) for one in QUANTILES),
    )


def share(part: float, whole: float) -> Interval:
    """A share with its interval; unknown of nothing."""
    if not whole > 0.0:
        return Interval(math.nan, math.nan, math.nan)
    counts = Counts(part, whole)
    return Interval(part / whole, float(lower_bound(counts, _ALPHA)), float(upper_bound(counts, _ALPHA)))


def quantile(histogram: Histogram, probability: float) -> Interval:
    """A histogram's quantile, values spread evenly within each bucket, and its interval; infinite above all bounds."""
    total = histogram.total
    if not total > 0.0:
        return Interval(math.nan, math.nan, math.nan)
    counts, bounds = np.asarray(histogram.counts), np.asarray(histogram.bounds)
    below = np.concatenate([[0.0], np.cumsum(counts)])[:-1] / total
    last = float(below[-1])
    edges = np.concatenate([[0.0], bounds])
    value = math.inf if probability > last else float(np.interp(probability, below, edges))
    ends = quantile_bounds(counts, bounds, probability, _ALPHA / 2.0)
    return Interval(value, float(ends.low), float(ends.high))


def probe_figures(probe: ProbeResults) -> ProbeFigures | None:
    """Both versions on the captures that both answered; None for fewer than ten positions."""
    both = answered(probe.stable) & answered(probe.canary)
    position = probe.position[both]
    if len(np.unique(position)) < _FEWEST_POSITIONS:
        return None
    rows = [_scores(_chosen(answers, both)) for answers in (probe.stable, probe.canary)]
    gain = rows[1][_LOG_LIKELIHOOD] - rows[0][_LOG_LIKELIHOOD]
    intervals = _means(np.vstack([*rows, gain]), position)
    half = len(rows[0])
    stable, canary = (_version(int(both.sum()), intervals[start : start + half]) for start in (0, half))
    return ProbeFigures(probe.levels, stable, canary, intervals[-1])


_SQUARE_M2, _NEES, _LOG_LIKELIHOOD, _COVERAGE = 0, 1, 2, 3
"""Rows of `_scores`; coverages are the last."""


def _scores(answers: ProbeAnswers) -> F64:
    values = [(answers.error_m**2).sum(axis=1), normalised_squares(answers), log_likelihoods(answers)]
    return np.vstack([*values, answers.inside.T.astype(np.float64)])


def _chosen(answers: ProbeAnswers, captures: Bools) -> ProbeAnswers:
    return ProbeAnswers(
        answers.error_m[captures],
        answers.covariance_m2[captures],
        answers.inside[captures],
        answers.confidence[captures],
    )


def _means(values: F64, position: I64) -> list[Interval]:
    sums: Sums = by_position(values, position)
    scores = t_scores(sums, _RESAMPLES)
    tails = np.full(len(values), _ALPHA / 2.0)
    ends = mean(sums), lower_bounds(sums, scores, tails), upper_bounds(sums, scores, tails)
    return [Interval(*(float(number) for number in figure)) for figure in zip(*ends, strict=True)]


def _version(captures: int, means: list[Interval]) -> VersionFigures:
    square = means[_SQUARE_M2]
    rms_m = Interval(*(math.sqrt(max(number, 0.0)) for number in (square.value, square.low, square.high)))
    coverage = tuple(Interval(one.value, max(one.low, 0.0), min(one.high, 1.0)) for one in means[_COVERAGE:])
    return VersionFigures(captures, rms_m, means[_NEES], means[_LOG_LIKELIHOOD], coverage)
