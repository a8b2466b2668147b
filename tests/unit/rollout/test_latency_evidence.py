from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rollout.latency_evidence import LatencyTest, quantile_bounds
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.measurements import Histogram

UNHURRIED = settings(deadline=None, max_examples=50)  # other tests may run on the same cores

TEST = LatencyTest(quantile=0.95, allowed_ratio=1.25, unacceptable_ratio=1.75, alpha=0.001, beta=0.01)
EDGES_S = np.array([0.01, 0.02, 0.05, 0.1])


def bucket_counts() -> st.SearchStrategy[np.ndarray]:
    """Counts of four buckets and of what lies above."""
    return st.lists(st.integers(0, 2_000), min_size=5, max_size=5).map(lambda found: np.array(found, dtype=float))


def interpolated(counts: np.ndarray, quantile: float) -> float:
    """The quantile as Prometheus documents `histogram_quantile` for classic buckets, in our own words."""
    rank, cumulative = quantile * counts.sum(), np.cumsum(counts)
    bucket = int(np.searchsorted(cumulative, rank))
    if bucket == len(EDGES_S):
        return float(EDGES_S[-1])
    start = 0.0 if bucket == 0 else EDGES_S[bucket - 1]
    before = 0.0 if bucket == 0 else cumulative[bucket - 1]
    return float(start + (EDGES_S[bucket] - start) * (rank - before) / counts[bucket])


@UNHURRIED
@given(bucket_counts(), st.floats(0.05, 0.95))
def test_bounds_hold_the_histograms_own_quantile(counts: np.ndarray, quantile: float) -> None:
    """The measured quantile lies between the bounds, whatever the counts."""
    low, high = quantile_bounds(counts, EDGES_S, quantile, 0.01)
    if counts.sum():
        assert low - 1e-9 <= interpolated(counts, quantile) <= high + 1e-9
    assert 0.0 <= low <= high


def test_bounds_shrink_onto_the_quantile() -> None:
    """With a hundred million values both bounds are within 1 % of the quantile."""
    counts = np.array([4e7, 3e7, 2.6e7, 3e6, 1e6])
    low, high = quantile_bounds(counts, EDGES_S, 0.95, 0.001)
    assert float(low) == pytest.approx(interpolated(counts, 0.95), rel=0.01)
    assert float(high) == pytest.approx(interpolated(counts, 0.95), rel=0.01)


@UNHURRIED
@given(st.integers(1, 3_000), st.floats(0.0, 1.0))
def test_bounds_at_a_bucket_agree_with_the_exact_binomial_test(total: int, share: float) -> None:
    """Where the lower bound is above an edge, scipy's exact one-sided test of the share below that edge rejects too."""
    below = round(share * total)
    low, _ = quantile_bounds(np.array([below, 0.0, 0.0, 0.0, total - below], dtype=float), EDGES_S, 0.95, 0.01)
    if low > EDGES_S[0]:
        assert binomtest(below, total, 0.95, alternative="less").pvalue < 0.01


def test_each_of_four_sequences_has_a_quarter_of_alpha() -> None:
    """A canary whose lower bound is above the limit at alpha, and not at a quarter of it, does not fail."""
    canary, stable = np.array([80.0, 0.0, 0.0, 0.0, 20.0]), np.array([1e7, 0.0, 0.0, 0.0, 0.0])
    limit_s = 1.25 * quantile_bounds(stable, EDGES_S, 0.95, 1e-6).high
    levels = np.geomspace(1e-12, 0.1, 200)
    shown = [level for level in levels if quantile_bounds(canary, EDGES_S, 0.95, float(level)).low > limit_s]
    smallest = float(min(shown))
    tests = (
        LatencyTest(0.95, 1.25, 2.0, alpha=alpha, beta=0.01) for alpha in (smallest, 3.0 * smallest, 4.1 * smallest)
    )
    assert [bool(test.fails(canary, stable, EDGES_S)) for test in tests] == [False, False, True]


def test_values_above_all_bounds_have_no_upper_bound() -> None:
    """When a tenth lies above the last bound, the 95 % quantile is at least that bound, and nothing is known above."""
    low, high = quantile_bounds(np.array([900.0, 0.0, 0.0, 0.0, 100.0]), EDGES_S, 0.95, 0.01)
    assert (low, high) == (0.1, np.inf)


@UNHURRIED
@given(bucket_counts(), st.integers(0, 3), st.integers(1, 100))
def test_slower_calls_never_lower_a_bound(counts: np.ndarray, bucket: int, moved: int) -> None:
    """Moving calls into the next slower bucket never moves either bound down."""
    moved = int(min(moved, counts[bucket]))
    slower = counts.copy()
    slower[bucket] -= moved
    slower[bucket + 1] += moved
    before, after = (quantile_bounds(one, EDGES_S, 0.95, 0.01) for one in (counts, slower))
    assert after.low >= before.low - 1e-12
    assert after.high >= before.high - 1e-12


@UNHURRIED
@given(bucket_counts(), bucket_counts())
def test_one_of_two_arms_at_most_fails(one: np.ndarray, other: np.ndarray) -> None:
    """Swapped arms never both fail, and an arm never fails against itself."""
    assert not (TEST.fails(one, other, EDGES_S) and TEST.fails(other, one, EDGES_S))
    assert not TEST.fails(one, one, EDGES_S)


def test_arrays_of_arms_give_what_single_ones_give(histogram: Callable[[int, float], Histogram]) -> None:
    """The study judges thousands of arms at once by the very same functions."""
    canary = np.array([histogram(calls, 0.024).counts for calls in (20, 200, 2_000)])
    stable = np.array([histogram(10 * calls, 0.012).counts for calls in (20, 200, 2_000)])
    edges_s = np.asarray(histogram(1, 0.012).bounds)
    together = TEST.fails(canary, stable, edges_s)
    assert together.tolist() == [bool(TEST.fails(c, s, edges_s)) for c, s in zip(canary, stable, strict=True)]
    assert together.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("median_s", "outcome"), [(0.024, Outcome.FAIL), (0.012, Outcome.PASS), (0.018, Outcome.INCONCLUSIVE)]
)
def test_outcomes(histogram: Callable[[int, float], Histogram], median_s: float, outcome: Outcome) -> None:
    """Twice as slow fails, equal passes, half as slow again is between the margins at 300 calls."""
    reason = TEST.judge(histogram(300, median_s), histogram(6_000, 0.012))
    assert reason.outcome is outcome
    assert "the 95% quantile of the canary is between" in reason.sentence


def test_equal_arms_are_rarely_failed_at_any_look() -> None:
    """Of 1,000 equal canaries looked at 40 times, fewer than 1 % ever fail at an alpha of 1 % and a ratio of 1."""
    rng = np.random.default_rng(5)
    shares = (0.3, 0.5, 0.12, 0.06, 0.02)
    canary, stable = (rng.multinomial(calls, shares, (1_000, 40)).cumsum(axis=1).astype(float) for calls in (50, 500))
    test = LatencyTest(0.95, 1.0, 2.0, alpha=0.01, beta=0.01)
    assert test.fails(canary, stable, EDGES_S).any(axis=1).mean() < 0.01
