"""Whether something grows: the slope of a quantity over time, with a bound that noise alone would not reach.

What belongs here: the statistics, pure. What does not: watching a process (`watch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = 24
"""Neighbouring samples are alike, which would make the bound too narrow; so many blocks are much less so. Of each the
smallest sample counts: what leaks is never given back, so it raises the minima; what a burst needs does not."""

SETTLING = 0.2
"""Share of the beginning that is left out: buffers, pools and the allocator's arenas reach their size there."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through the samples.

    Attributes:
        per_hour: Its slope.
        lower_per_hour: The lower end of the slope's confidence interval of 95 %.
        upper_per_hour: The upper end.
        mean: The mean of the samples that were looked at, not only of the smallest.
    """

    per_hour: float
    lower_per_hour: float
    upper_per_hour: float
    mean: float


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares through block minima, with Student's t for the interval (Draper, Smith: Applied Regression, §1.4).

    Args:
        at_s: Moments in seconds, rising; at least `BLOCKS` are left after the settling.
        values: One for each moment.
    """
    times_s, samples = np.asarray(at_s, float), np.asarray(values, float)
    kept = times_s >= times_s[0] + SETTLING * (times_s[-1] - times_s[0])
    if kept.sum() < BLOCKS:
        raise ValueError(f"{kept.sum()} samples are too few for {BLOCKS} blocks")
    blocks = np.array_split(np.column_stack((times_s[kept], samples[kept])), BLOCKS)
    smallest = np.array([block[block[:, 1].argmin()] for block in blocks])
    hours, minima = smallest[:, 0] / 3600.0, smallest[:, 1]
    offsets = hours - hours.mean()
    spread = float(offsets @ offsets)
    per_hour = float(offsets @ minima) / spread
    residuals = minima - minima.mean() - per_hour * offsets
    error = np.sqrt(residuals @ residuals / (BLOCKS - 2) / spread)
    half = float(stats.t.ppf(0.975, BLOCKS - 2) * error)
    return Slope(per_hour, per_hour - half, per_hour + half, float(samples[kept].mean()))
