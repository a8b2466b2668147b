"""Whether the canary's predictor is slower than the stable one.

What belongs here: quantiles of histograms with their uncertainty, and the latency's signal. What does not: which
durations are in the histograms.

The quantile is that of the histogram with even spread inside of each bucket, as Prometheus's `histogram_quantile`
defines it: buckets tell no more. Let F be the distribution so interpolated and q its τ-quantile, between the bounds
b' < q ≤ b. If the confidence sequences of the two proportions F(b') and F(b) hold, then so does the interval for q
that is read off the interpolated bounds, because interpolation keeps order. So one quantile costs two confidence
sequences and no union over all buckets: as Howard & Ramdas, Bernoulli 28 (2022) 1704, Theorem 1, for a quantile that
is chosen beforehand; here with the exact beta-binomial mixture in place of their boundary. Two arms make four
sequences, so each has a quarter of the error probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rollout.proportions import Bounds, Counts, log_evidence, lower_bound, upper_bound
from rollout.verdict import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.arrays import F64, I64, Bools
    from rollout.measurements import Histogram

SIGNAL = "latency"

_SEQUENCES = 4
"""Two arms with two bounds of buckets each."""


@dataclass(frozen=True, slots=True)
class LatencyTest:
    """What is tested at one step, and how surely.

    Attributes:
        quantile: Which one, for example 0.95.
        allowed_ratio: Failed when the canary's quantile is shown to be more than this times the stable one's.
        unacceptable_ratio: Passed when it is shown to be less than this times the stable one's.
        alpha: Probability of failing a version that is allowed.
        beta: Probability of passing one that is unacceptable.
    """

    quantile: float
    allowed_ratio: float
    unacceptable_ratio: float
    alpha: float
    beta: float

    def fails(self, canary: F64, stable: F64, bounds_s: F64) -> Bools:
        """Whether the canary is shown to be slower than allowed; counts [..., J+1] over bounds [J] in seconds."""
        level = self.alpha / _SEQUENCES
        canary_s = quantile_bounds(canary, bounds_s, self.quantile, level)
        stable_s = quantile_bounds(stable, bounds_s, self.quantile, level)
        return np.asarray(canary_s.low > self.allowed_ratio * stable_s.high, dtype=np.bool_)

    def passes(self, canary: F64, stable: F64, bounds_s: F64) -> Bools:
        """Whether the canary is shown to be faster than unacceptable; counts [..., J+1] over bounds [J] in seconds."""
        level = self.beta / _SEQUENCES
        canary_s = quantile_bounds(canary, bounds_s, self.quantile, level)
        stable_s = quantile_bounds(stable, bounds_s, self.quantile, level)
        return np.asarray(canary_s.high < self.unacceptable_ratio * stable_s.low, dtype=np.bool_)

    def judge(self, canary: Histogram, stable: Histogram) -> Reason:
        """What the durations of both arms say."""
        bounds_s = np.asarray(stable.bounds)
        c, s = np.asarray(canary.counts, dtype=np.float64), np.asarray(stable.counts, dtype=np.float64)
        outcome, level, limit = Outcome.INCONCLUSIVE, self.alpha, self.allowed_ratio
        if self.fails(c, s, bounds_s):
            outcome = Outcome.FAIL
        elif self.passes(c, s, bounds_s):
            outcome, level, limit = Outcome.PASS, self.beta, self.unacceptable_ratio
        canary_s = quantile_bounds(c, bounds_s, self.quantile, level / _SEQUENCES)
        stable_s = quantile_bounds(s, bounds_s, self.quantile, level / _SEQUENCES)
        figure = canary_s.high / stable_s.low if outcome is Outcome.PASS else canary_s.low / stable_s.high
        sentence = (
            f"the {self.quantile:.0%} quantile of the canary is {_range_ms(canary_s)} after {canary.total:g} calls, "
            f"the stable arm's {_range_ms(stable_s)} after {stable.total:g}; allowed {self.allowed_ratio:g} times, "
            f"unacceptable {self.unacceptable_ratio:g} times"
        )
        return Reason(SIGNAL, outcome, float(figure), limit, sentence)


def quantile_bounds(counts: F64, bounds_s: F64, quantile: float, alpha: float) -> Bounds:
    """Time-uniform bounds of a histogram's quantile.

    Args:
        counts: [..., J+1] values per bucket, the last for those above all bounds.
        bounds_s: [J] upper bounds of the buckets.
        quantile: Between 0 and 1.
        alpha: Level of each of the two confidence sequences that are used: the bounds hold with 1 − 2·alpha.

    Returns:
        Lower and upper bound [...] in the bounds' unit; infinite above the highest bound.
    """
    edges = np.concatenate([[0.0], bounds_s])
    below = np.concatenate([np.zeros_like(counts[..., :1]), np.cumsum(counts, axis=-1)[..., :-1]], axis=-1)
    total = counts.sum(axis=-1)
    # Whether the sequence of F at each edge excludes the quantile can be asked without computing its ends.
    excluded = log_evidence(Counts(below, total[..., None]), quantile) >= -np.log(alpha)
    excluded[..., 0] = True  # nothing takes no time: F(0) = 0 is known
    share = quantile * total[..., None]
    surely_before = (excluded & (below <= share)).sum(axis=-1)
    surely_after = (excluded & (below > share)).sum(axis=-1)
    low = _crossing(upper_bound, below, total, edges, surely_before, quantile, alpha)
    high = _crossing(lower_bound, below, total, edges, len(edges) - surely_after, quantile, alpha)
    return Bounds(np.minimum(low, bounds_s[-1]), high)


def _crossing(
    bound: Callable[[Counts, float], F64],
    below: F64,
    total: F64,
    edges: F64,
    right: I64,
    quantile: float,
    alpha: float,
) -> F64:
    """Where the interpolated bounds of F cross the quantile, left of the edge number `right`."""
    inside = np.minimum(right, len(edges) - 1)
    sides = []
    for index in (inside - 1, inside):
        successes = np.take_along_axis(below, index[..., None], axis=-1)[..., 0]
        sides.append(np.where(index == 0, 0.0, bound(Counts(successes, total), alpha)))
    rise = np.maximum(sides[1] - sides[0], np.finfo(np.float64).tiny)
    fraction = np.clip((quantile - sides[0]) / rise, 0.0, 1.0)
    crossing = edges[inside - 1] + (edges[inside] - edges[inside - 1]) * fraction
    return np.asarray(np.where(right > len(edges) - 1, np.inf, crossing), dtype=np.float64)


def _range_ms(bounds_s: Bounds) -> str:
    return f"between {1e3 * float(bounds_s.low):.3g} and {1e3 * float(bounds_s.high):.3g} ms"
