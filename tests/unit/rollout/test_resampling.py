from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, t

from rollout.resampling import Sums, by_position, lower_bounds, mean, standard_error, t_scores, upper_bounds

UNHURRIED = settings(deadline=None, max_examples=15)  # other tests may run on the same cores


def bound(values: np.ndarray, position: np.ndarray, alpha: float, resamples: int = 1_999) -> float:
    """The lower bound of one kind of values."""
    sums = by_position(values[None], position)
    return float(lower_bounds(sums, t_scores(sums, resamples), np.array([alpha]))[0])


def test_sums_by_position_in_any_order() -> None:
    """Captures of one position are added up wherever they stand, and the mean is per capture."""
    sums = by_position(np.array([[1.0, 2.0, 3.0, 10.0]]), np.array([7, -1, 7, 7]))
    assert sums.values.tolist() == [[2.0, 14.0]]
    assert sums.captures.tolist() == [1.0, 3.0]
    assert mean(sums).tolist() == [4.0]


def test_gaussian_values_give_students_interval() -> None:
    """For 400 Gaussian values the bounds are within 3 % of a standard deviation of the mean of Student's t."""
    values = np.random.default_rng(1).standard_normal(400)
    sums = by_position(values[None], np.arange(400))
    scores = t_scores(sums, 9_999)
    half = t.ppf(0.99, 399) * values.std(ddof=1) / 20.0
    alpha = np.array([0.01])
    assert lower_bounds(sums, scores, alpha)[0] == pytest.approx(values.mean() - half, abs=0.15 / 20.0)
    assert upper_bounds(sums, scores, alpha)[0] == pytest.approx(values.mean() + half, abs=0.15 / 20.0)


def test_skewed_values_agree_with_scipy() -> None:
    """Both ends for exponential values lie within 10 % of the standard error of scipy's BCa bootstrap."""
    values = np.random.default_rng(2).exponential(size=700)
    sums = by_position(values[None], np.arange(700))
    scores, tail = t_scores(sums, 4_999), np.array([0.025])
    foreign = bootstrap((values,), np.mean, n_resamples=4_999, method="BCa", rng=np.random.default_rng(3))
    tolerance = 0.1 * foreign.standard_error
    assert lower_bounds(sums, scores, tail)[0] == pytest.approx(foreign.confidence_interval.low, abs=tolerance)
    assert upper_bounds(sums, scores, tail)[0] == pytest.approx(foreign.confidence_interval.high, abs=tolerance)


def test_captures_of_one_position_do_not_count_twice() -> None:
    """Ten copies of every capture leave the bound where it was: a test that ignores positions would believe them."""
    values = np.random.default_rng(4).standard_normal(100)
    once = bound(values, np.arange(100), 0.01)
    copies = np.tile(values, 10)
    assert bound(copies, np.tile(np.arange(100), 10), 0.01) == pytest.approx(once, abs=1e-6)
    assert bound(copies, np.arange(1_000), 0.01) > once + 0.1


def test_positions_of_unequal_size() -> None:
    """The standard error is that of the ratio Σs/Σn, as a brute-force resampling of positions finds it."""
    rng = np.random.default_rng(5)
    position = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    values = rng.standard_normal(80)[position] + rng.standard_normal(len(position))
    sums = by_position(values[None], position)
    drawn = rng.integers(80, size=(4_000, 80))
    spread = (sums.values[0][drawn].sum(axis=1) / sums.captures[drawn].sum(axis=1)).std()
    assert standard_error(sums)[0] == pytest.approx(spread, rel=0.08)


def test_equal_values_have_no_spread() -> None:
    """Where all values are the same the bound is that value."""
    assert bound(np.full(50, 0.25), np.arange(50), 0.01) == pytest.approx(0.25)


@UNHURRIED
@given(st.floats(0.001, 0.4), st.floats(0.001, 0.4), st.integers(0, 100))
def test_bounds_are_monotone_in_alpha_and_below_the_mean(one: float, other: float, seed: int) -> None:
    """A smaller alpha never raises the bound, and no bound is above the mean."""
    values = np.random.default_rng(seed).standard_normal(60) ** 3
    strict, lax = (bound(values, np.arange(60), alpha, 999) for alpha in sorted((one, other)))
    assert strict <= lax <= values.mean() + 1e-9


def test_same_values_give_the_same_verdict() -> None:
    """The resamples are the same every time."""
    values = np.random.default_rng(6).standard_normal(200)
    assert bound(values, np.arange(200), 0.01) == bound(values, np.arange(200), 0.01)


def test_one_sided_error_is_kept_on_skewed_values() -> None:
    """The true mean of 60 squared Gaussians is below its 5 % bound in about 5 % of 2,000 samples, not in 1 or 10 %."""
    sums = Sums(np.random.default_rng(7).standard_normal((2_000, 60)) ** 2, np.ones(60))
    bounds = lower_bounds(sums, t_scores(sums, 999), np.full(2_000, 0.05))
    assert 0.035 < (bounds > 1.0).mean() < 0.07
