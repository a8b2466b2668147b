from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.calibrate import LEVELS, EllipseScale, fit, gaussian_scale, mahalanobis_squared, scale_at

TABLE = (EllipseScale(0.5, 1.1), EllipseScale(0.9, 2.3))


def test_gaussian_errors_need_no_correction() -> None:
    """On errors that really are Gaussian the factor is one and the table is √(−2 ln(1−p))."""
    squared = np.random.default_rng(1).chisquare(2.0, 400_000)
    found = fit(squared)
    assert found.sigma_factor == pytest.approx(1.0, abs=0.005)
    assert [row.k for row in found.ellipse_scale] == pytest.approx([gaussian_scale(p) for p in LEVELS], rel=0.01)


def test_heavy_tails_get_the_right_mean_square_and_the_right_quantiles() -> None:
    """After the fit NEES is 2 and every ellipse holds its share, although no Gaussian does both here."""
    squared = 3.0 * np.random.default_rng(1).chisquare(2.0, 200_000) ** 1.3
    found = fit(squared)
    scaled = squared / found.sigma_factor**2
    assert scaled.mean() == pytest.approx(2.0)
    for row in found.ellipse_scale:
        assert np.mean(scaled <= row.k**2) == pytest.approx(row.confidence_level, abs=1e-4)


def test_gaussian_scale_has_the_textbook_values() -> None:
    """Radii of the two-dimensional standard Gaussian: 39.3 % within one sigma, 1.1774 is the CEP."""
    assert [gaussian_scale(p) for p in (0.5, 0.68, 0.9, 0.95, 0.99)] == pytest.approx(
        [1.1774, 1.5096, 2.1460, 2.4477, 3.0349], abs=1e-4
    )
    assert gaussian_scale(1.0 - np.exp(-0.5)) == pytest.approx(1.0)


@given(st.floats(0.001, 0.999))
def test_without_a_table_the_scale_is_gaussian(level: float) -> None:
    """An absent table means k = √(−2 ln(1−p))."""
    assert scale_at((), level) == gaussian_scale(level)


def test_table_is_met_interpolated_and_held() -> None:
    """The table's own levels return its k; between them and beyond its ends the ratio to the Gaussian decides."""
    ratios = [row.k / gaussian_scale(row.confidence_level) for row in TABLE]
    assert scale_at(TABLE, 0.5) == pytest.approx(1.1)
    assert scale_at(TABLE, 0.7) == pytest.approx(gaussian_scale(0.7) * np.mean(ratios))
    assert scale_at(TABLE, 0.99) == pytest.approx(gaussian_scale(0.99) * ratios[1])
    assert scale_at(TABLE, 0.1) == pytest.approx(gaussian_scale(0.1) * ratios[0])


def test_mahalanobis_distance() -> None:
    """One sigma along either axis counts as one."""
    covariance = np.array([[[4.0, 0.0], [0.0, 9.0]]] * 2)
    assert mahalanobis_squared(np.array([[2.0, 0.0], [2.0, 3.0]]), covariance) == pytest.approx([1.0, 2.0])
