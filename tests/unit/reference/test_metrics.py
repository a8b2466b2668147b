from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multivariate_normal

from reference import metrics
from reference.calibrate import gaussian_scale

RNG = np.random.default_rng(1)
COVARIANCE = metrics.covariances(np.tile([3_000.0, 1_000.0, 0.5], (4_000, 1)))
ERRORS = RNG.multivariate_normal([0.0, 0.0], COVARIANCE[0], 4_000)


def test_rms_and_its_interval() -> None:
    """The RMS error of known Gaussian errors is √(σx² + σy²), inside a bootstrap interval of the right width."""
    found = metrics.rms(ERRORS)
    assert found.low < np.sqrt(1e7) < found.high
    assert (found.high - found.low) / found.value == pytest.approx(0.04, abs=0.02)


@given(st.integers(1, 400), st.data())
def test_share_has_wilsons_interval(count: int, data: st.DataObject) -> None:
    """Share and interval agree with scipy's binomial test for any counts."""
    true = data.draw(st.integers(0, count))
    found = metrics.share(np.arange(count) < true)
    expected = binomtest(true, count).proportion_ci(method="wilson")
    assert found.value == true / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_nees_of_honest_errors_is_two() -> None:
    """Errors drawn from their own covariance average 2, and half the sigmas make it 8."""
    assert metrics.nees(ERRORS, COVARIANCE).value == pytest.approx(2.0, abs=0.1)
    assert metrics.nees(ERRORS, COVARIANCE / 4.0).value == pytest.approx(8.0, abs=0.4)


def test_log_likelihood_is_scipys() -> None:
    """Per case the Gaussian density per km², as scipy computes it."""
    expected = multivariate_normal([0.0, 0.0], COVARIANCE[0] / 1e6).logpdf(ERRORS / 1e3)
    assert metrics.log_likelihoods(ERRORS, COVARIANCE) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9, 0.95, 0.99])
def test_ellipses_hold_their_share(level: float) -> None:
    """Gaussian errors fall into the ellipse of each level with that probability."""
    ellipse = metrics.ellipses(COVARIANCE, gaussian_scale(level))
    assert metrics.inside_ellipse(ERRORS, ellipse).mean() == pytest.approx(level, abs=0.02)


@given(theta=st.floats(-3.1, 3.1), major=st.floats(2.0, 50.0), minor=st.floats(0.1, 1.9))
def test_bearing_is_clockwise_from_north(theta: float, major: float, minor: float) -> None:
    """An axis θ counter-clockwise from east has the bearing (90° − θ) mod 180, and the axes are k·σ."""
    found = metrics.ellipses(metrics.covariances(np.array([[major, minor, theta]])), 2.0)[0]
    turn = (found[2] - (90.0 - np.rad2deg(theta)) + 90.0) % 180.0 - 90.0
    assert turn == pytest.approx(0.0, abs=1e-3)
    assert found[:2] == pytest.approx([2.0 * major, 2.0 * minor], rel=1e-6)
    assert 0.0 <= found[2] < 180.0


def test_point_east_of_an_eastward_ellipse_is_inside() -> None:
    """The orientation test by hand: bearing 90° stretches the ellipse along east, not along north."""
    ellipse = np.array([[10.0, 1.0, 90.0]] * 2)
    assert metrics.inside_ellipse(np.array([[9.0, 0.0], [0.0, 9.0]]), ellipse).tolist() == [True, False]


def test_reliability_bins() -> None:
    """Each occupied bin reports its mean claim and what came true; the top bin includes one."""
    rows = metrics.reliability(np.array([0.05, 0.15, 0.15, 1.0]), np.array([False, True, False, True]))
    assert [(row.low, row.count, row.observed) for row in rows] == [(0.0, 1, 0.0), (0.1, 2, 0.5), (0.9, 1, 1.0)]


def test_paired_difference_sees_a_small_gain() -> None:
    """A gain far below the scores' own spread is found because both models meet the same cases."""
    baseline = RNG.normal(0.0, 10.0, 1_000)
    found = metrics.paired_difference(baseline + 0.1 + RNG.normal(0.0, 0.1, 1_000), baseline)
    assert found.low > 0.0


def test_interval_reads_well() -> None:
    """Reports print value and bounds with four digits."""
    assert str(metrics.Interval(1.23456, 1.0, 2.0)) == "1.235 [1, 2]"
