from __future__ import annotations

import math

import pytest
from scipy.stats import ks_2samp

from rollout.live_evidence import largest_difference, notes
from rollout.measurements import Disagreement, Histogram, LiveDistributions, Measurements

ONE, OTHER = Histogram((1.0, 2.0, 3.0), (10.0, 20.0, 30.0, 40.0)), Histogram((1.0, 2.0, 3.0), (40.0, 30.0, 20.0, 10.0))


def test_difference_is_kolmogorovs() -> None:
    """On values that stand for their buckets it is the statistic of scipy's two-sample test."""
    values = [[index for index, count in enumerate(one.counts) for _ in range(int(count))] for one in (ONE, OTHER)]
    assert largest_difference(ONE, OTHER) == pytest.approx(ks_2samp(*values).statistic)


@pytest.mark.parametrize(
    "other",
    [
        Histogram((1.0, 2.0, 3.0), (0.0,) * 4),
        Histogram((1.0,), (1.0, 1.0)),
        Histogram((1.0, 2.0, 3.0), (math.nan,) * 4),
    ],
)
def test_nothing_to_compare(other: Histogram) -> None:
    """Without answers, with other buckets or with NaN there is no difference, rather than a wrong one."""
    assert largest_difference(ONE, other) is None


def test_notes() -> None:
    """Every live figure becomes a sentence; what was not measured has none."""
    assert notes(Measurements(())) == ()
    live = LiveDistributions(ONE, ONE), LiveDistributions(OTHER, Histogram((1.0,), (0.0, 0.0)))
    assert notes(Measurements((), live=live, disagreement=Disagreement(50, 12_345.0, 3))) == (
        "live ellipse area: the two versions' distributions differ by at most 40.0% over 100 and 100 answers",
        "live confidence: not enough answers to compare",
        (
            "disagreement: of 50 captures each version puts 3 outside of the other's 95 % ellipse; "
            "the median distance is 12.3 km"
        ),
    )
    assert notes(Measurements((), disagreement=Disagreement(0, math.nan, 0))) == (
        "disagreement: no captures were compared",
    )
