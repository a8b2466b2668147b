from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.figures import QUANTILES, Interval, arm_figures, probe_figures, quantile, share
from rollout.measurements import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.measurements import ArmCounts, ProbeResults


def test_an_arms_figures(arm: Callable[..., ArmCounts]) -> None:
    """Ratio and quantiles with intervals around them; the log-normal's quantiles are known."""
    found = arm_figures(arm(10_000, 100, median_s=0.012))
    assert (found.calls, found.errors, found.durations) == (10_000.0, 100.0, pytest.approx(10_000.0))
    assert found.error_ratio.value == 0.01
    assert found.error_ratio.low < 0.01 < found.error_ratio.high < 0.015
    expected = [0.012 * math.exp(0.4 * z) for z in (0.0, 1.645, 2.326)]
    assert [one.value for one in found.quantiles_s] == pytest.approx(expected, rel=0.12)  # within a bucket
    assert all(one.low < one.value < one.high for one in found.quantiles_s)
    assert len(found.quantiles_s) == len(QUANTILES)


@given(st.lists(st.integers(0, 1_000), min_size=5, max_size=5).filter(any), st.floats(0.01, 0.99))
def test_quantiles_lie_in_their_intervals(counts: list[int], probability: float) -> None:
    """Whatever the histogram: the interval holds the figure, and both are infinite together above all bounds."""
    found = quantile(Histogram((1.0, 2.0, 4.0, 8.0), tuple(map(float, counts))), probability)
    assert found.low <= found.value <= found.high
    assert math.isinf(found.value) == (sum(counts[:-1]) / sum(counts) < probability)


def test_nothing_gives_no_figure() -> None:
    """Of no calls there is no share and no quantile, and people read a dash."""
    assert not share(0.0, 0.0).known
    unknown = quantile(Histogram((1.0,), (0.0, 0.0)), 0.5)
    assert not unknown.known
    assert unknown.text(" ms") == "–"


def test_a_figure_in_words() -> None:
    """The figure with its unit, and the interval in the same."""
    assert Interval(0.0123, 0.01, math.inf).text(" ms", 1e3) == "12.3 ms (10 to inf)"


def test_probe_figures_know_the_truth(probe: Callable[..., ProbeResults]) -> None:
    """Honest Gaussian answers: NEES 2 and coverage as promised; errors twice as large are seen in all figures."""
    found = probe_figures(probe(4_000, stretch=2.0))
    assert found is not None
    assert found.levels == (0.5, 0.95)
    assert found.stable.captures == found.canary.captures == 4_000
    assert found.stable.nees.low < 2.0 < found.stable.nees.high
    assert found.canary.nees.value == pytest.approx(4.0 * found.stable.nees.value)
    assert found.canary.rms_m.value == pytest.approx(2.0 * found.stable.rms_m.value)
    for level, coverage in zip(found.levels, found.stable.coverage, strict=True):
        assert coverage.low < level < coverage.high
    # ln f falls by ½·(4 − 1)·NEES for errors twice as large.
    assert found.gain.value == pytest.approx(-1.5 * found.stable.nees.value)
    assert found.gain.high < 0.0
    assert found.gain.value == pytest.approx(found.canary.log_likelihood.value - found.stable.log_likelihood.value)


def test_unanswered_captures_are_left_out_for_both(probe: Callable[..., ProbeResults]) -> None:
    """One version's missing answer takes the capture from both, so that they stay paired."""
    results = probe(100)
    results.canary.error_m[:20] = np.nan
    found = probe_figures(results)
    assert found is not None
    assert found.stable.captures == 80
    assert found.gain.value == 0.0


def test_few_positions_give_no_figures(probe: Callable[..., ProbeResults]) -> None:
    """Intervals by position need some positions."""
    assert probe_figures(replace(probe(100), position=np.arange(100) % 9)) is None
    unanswered = probe(20)
    unanswered.stable.error_m[:] = np.nan
    assert probe_figures(unanswered) is None
