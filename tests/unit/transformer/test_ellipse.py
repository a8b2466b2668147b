from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ive
from scipy.stats import chi2

from transformer import ellipse

Array = np.ndarray[Any, np.dtype[Any]]
SIGMAS = st.floats(1.0, 1e5)
ANGLES = st.floats(-10.0, 10.0)


def one(value: float) -> Array:
    """A batch of one."""
    return np.array([value])


@given(SIGMAS, SIGMAS, ANGLES)
def test_covariance_round_trip(sigma_x: float, sigma_y: float, theta: float) -> None:
    """Taken apart and built again, a covariance is the same, whichever axis is longer."""
    covariance = ellipse.covariance_m2(one(sigma_x), one(sigma_y), one(theta))
    again = ellipse.covariance_m2(*ellipse.decompose(covariance))
    np.testing.assert_allclose(again, covariance, rtol=1e-9, atol=1e-9 * covariance.max())


@given(SIGMAS, SIGMAS, ANGLES)
def test_axes_against_lapack(sigma_x: float, sigma_y: float, theta: float) -> None:
    """The closed form has the eigenvalues of LAPACK, and its bearing points along the first eigenvector."""
    covariance = ellipse.covariance_m2(one(sigma_x), one(sigma_y), one(theta))
    axes = ellipse.principal_axes(covariance)
    values, vectors = np.linalg.eigh(covariance[0])
    assert axes.semi_major_m[0] ** 2 == pytest.approx(values[1], rel=1e-9)
    assert axes.semi_minor_m[0] ** 2 == pytest.approx(values[0], rel=1e-6, abs=1e-12 * values[1])
    assert 0.0 <= axes.bearing_deg[0] < 180.0
    if values[1] > 1.001 * values[0]:
        east, north = vectors[:, 1]
        turn = math.radians(axes.bearing_deg[0])
        assert abs(east * math.sin(turn) + north * math.cos(turn)) == pytest.approx(1.0, abs=1e-6)


@given(SIGMAS, SIGMAS, ANGLES)
def test_both_ways_to_the_axes_agree(sigma_x: float, sigma_y: float, theta: float) -> None:
    """Axes straight from the sigmas are those of the covariance."""
    args = one(sigma_x), one(sigma_y), one(theta)
    direct, via = ellipse.sigma_ellipses(*args), ellipse.principal_axes(ellipse.covariance_m2(*args))
    np.testing.assert_allclose(direct.semi_major_m, via.semi_major_m, rtol=1e-9)
    np.testing.assert_allclose(direct.semi_minor_m, via.semi_minor_m, rtol=1e-4)
    assert 0.0 <= direct.bearing_deg[0] < 180.0
    if abs(sigma_x - sigma_y) > 1e-3 * sigma_x:
        assert abs((direct.bearing_deg - via.bearing_deg + 90.0)[0] % 180.0 - 90.0) < 1e-6


@pytest.mark.parametrize(
    ("sigma_x", "sigma_y", "theta_deg", "bearing"),
    [(2, 1, 0, 90), (2, 1, 90, 0), (2, 1, 45, 45), (2, 1, -45, 135), (1, 2, 0, 0), (1, 2, 30, 150), (2, 1, 180, 90)],
)
def test_bearings(sigma_x: float, sigma_y: float, theta_deg: float, bearing: float) -> None:
    """Counter-clockwise from east becomes clockwise from north, of the longer axis; mirrored angles would fail."""
    axes = ellipse.sigma_ellipses(one(sigma_x), one(sigma_y), np.radians(one(theta_deg)))
    assert abs((axes.bearing_deg[0] - bearing + 90.0) % 180.0 - 90.0) < 1e-9


def test_angles_stay_below_their_period() -> None:
    """The remainder of a tiny negative angle is 0, not the period."""
    assert ellipse.axis_angle_rad(one(-1e-20))[0] == 0.0
    assert ellipse.bearing_deg(np.nextafter(one(math.pi / 2), 2.0))[0] < 180.0
    assert ellipse.axis_angle_rad(one(-0.5))[0] == pytest.approx(math.pi - 0.5)


def test_smallest_axis_is_lifted() -> None:
    """A singular covariance has no thinner ellipse than the floor."""
    axes = ellipse.principal_axes(np.array([[[4.0, 2.0], [2.0, 1.0]], [[1e-4, 0.0], [0.0, 1e-4]]]), sigma_min_m=0.5)
    np.testing.assert_allclose(axes.semi_minor_m, [0.5, 0.5])
    np.testing.assert_allclose(axes.semi_major_m, [math.sqrt(5.0), 0.5])


def test_area() -> None:
    """The area of a scaled ellipse is π·k²·σ1·σ2."""
    axes = ellipse.sigma_ellipses(one(3.0), one(2.0), one(0.3)).scaled(2.0)
    assert axes.area_m2[0] == pytest.approx(math.pi * 4.0 * 3.0 * 2.0)


def test_mahalanobis_is_chi_squared() -> None:
    """Gaussian errors fall into the ellipse of p with frequency p; theta := 0 and 1-D factors do not."""
    rng = np.random.default_rng(5)
    n = 20_000
    sigma_x, sigma_y, theta = np.full(n, 30.0), np.full(n, 5.0), np.full(n, 0.7)
    covariance = ellipse.covariance_m2(sigma_x, sigma_y, theta)
    offsets = rng.multivariate_normal([0.0, 0.0], covariance[0], size=n)
    squared = ellipse.mahalanobis_squared(offsets, covariance)
    inverse = np.linalg.inv(covariance[0])
    np.testing.assert_allclose(squared[:50], np.einsum("ni,ij,nj->n", offsets[:50], inverse, offsets[:50]), rtol=1e-9)
    for p in (0.5, 0.68, 0.95):
        bound = 4.0 * math.sqrt(p * (1 - p) / n)
        assert abs(np.mean(squared <= chi2.ppf(p, 2)) - p) < bound
        assert abs(np.mean(squared <= chi2.ppf(p, 1)) - p) > bound  # mutant: 1-D sigma factors
        unturned = ellipse.mahalanobis_squared(offsets, ellipse.covariance_m2(sigma_x, sigma_y, 0.0 * theta))
        assert abs(np.mean(unturned <= chi2.ppf(p, 2)) - p) > bound  # mutant: theta dropped


@pytest.mark.parametrize(
    ("ratio", "cep", "r95"), [(1.0, 1.177, 2.448), (0.5, 0.870, 2.036), (0.2, 0.706, 1.970), (0.05, 0.676, 1.961)]
)
def test_cep_and_r95_against_the_table(ratio: float, cep: float, r95: float) -> None:
    """Published radii are met where the 0.589 rule (below ratio 0.2) and 2.08·CEP are not."""
    assert ellipse.cep_m(one(1.0), one(ratio))[0] == pytest.approx(cep, abs=6e-4)
    assert ellipse.r95_m(one(1.0), one(ratio))[0] == pytest.approx(r95, abs=6e-4)
    if ratio < 0.2:
        assert abs(0.589 * (1.0 + ratio) - cep) > 0.05
    if ratio < 1.0:
        assert abs(2.0789 * cep - r95) > 0.1


@pytest.mark.parametrize("ratio", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("radius", [0.1, 1.0, 3.0])
def test_exceedance_against_the_hoyt_density(radius: float, ratio: float) -> None:
    """P(r > ρ) is one minus the integral of Hoyt's density, which has a Bessel function in place of an angle."""

    def density(r: float) -> float:
        c, d = (1 / ratio**2 - 1) / 4, (1 / ratio**2 + 1) / 4
        return r / ratio * math.exp(-(r**2) * (d - c)) * float(ive(0, c * r**2))

    within, _ = quad(density, 0.0, radius, epsabs=1e-13, limit=200)
    assert ellipse.radial_exceedance(one(radius), one(1.0), one(ratio))[0] == pytest.approx(1 - within, abs=1e-11)


@example(p=0.0625, major=1.0, ratio=0.0)
@given(p=st.floats(1e-6, 1 - 1e-6), major=SIGMAS, ratio=st.floats(0.0, 1.0))
def test_quantile_inverts_the_exceedance(p: float, major: float, ratio: float) -> None:
    """The circle of the quantile holds its probability, for needles and circles alike."""
    assume(ratio > 0.01 or p > 0.05)  # below, the midpoints miss a needle's narrow core: see the module's own words
    minor = one(major * ratio)
    radius = ellipse.radial_quantile_m(p, one(major), minor)
    tolerance = 1e-11 if ratio > 0.01 else 1e-7
    assert 1.0 - ellipse.radial_exceedance(radius, one(major), minor)[0] == pytest.approx(p, abs=tolerance)


def test_quantile_against_monte_carlo() -> None:
    """Half of simulated errors lie within the CEP, 95 % within R95."""
    rng = np.random.default_rng(6)
    distance = np.hypot(rng.normal(scale=40.0, size=40_000), rng.normal(scale=9.0, size=40_000))
    assert np.mean(distance <= ellipse.cep_m(one(40.0), one(9.0))) == pytest.approx(0.5, abs=0.01)
    assert np.mean(distance <= ellipse.r95_m(one(40.0), one(9.0))) == pytest.approx(0.95, abs=0.0045)
