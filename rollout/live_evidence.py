"""What is worth seeing of live answers, and is not judged.

What belongs here: figures of live distributions and of disagreement as sentences. What does not: verdicts. A better
model has other ellipses and another confidence: without the truth, being different is no fault. The probe set knows
the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.measurements import Disagreement, Histogram, LiveDistributions, Measurements


def largest_difference(canary: Histogram, stable: Histogram) -> float | None:
    """Kolmogorov's distance of the two distributions at the buckets' bounds; None without values or common bounds."""
    totals = canary.total, stable.total
    if canary.bounds != stable.bounds or not all(np.isfinite(total) and total > 0.0 for total in totals):
        return None
    shares = [np.cumsum(one.counts) / total for one, total in zip((canary, stable), totals, strict=True)]
    return float(np.abs(shares[0] - shares[1]).max())


def notes(measurements: Measurements) -> tuple[str, ...]:
    """One sentence for each of the live figures."""
    found: list[str] = []
    if measurements.live is not None:
        found += _distributions(*measurements.live)
    if measurements.disagreement is not None:
        found += _disagreement(measurements.disagreement)
    return tuple(found)


def _distributions(stable: LiveDistributions, canary: LiveDistributions) -> Iterator[str]:
    for name, ours, theirs in (
        ("ellipse area", canary.area_m2, stable.area_m2),
        ("confidence", canary.confidence, stable.confidence),
    ):
        difference = largest_difference(ours, theirs)
        if difference is None:
            yield f"live {name}: not enough answers to compare"
        else:
            yield (
                f"live {name}: the two versions' distributions differ by at most {difference:.1%} over "
                f"{ours.total:g} and {theirs.total:g} answers"
            )


def _disagreement(disagreement: Disagreement) -> Iterator[str]:
    if disagreement.captures:
        yield (
            f"disagreement: of {disagreement.captures} captures each version puts {disagreement.outside} "
            f"outside of the other's 95 % ellipse; the median distance is {disagreement.median_m / 1e3:.1f} km"
        )
    else:
        yield "disagreement: no captures were compared"
