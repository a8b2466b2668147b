from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from transformer.ellipse import Ellipses
from transformer.geodesy import MIN_REACH_M, rings

Array = np.ndarray[Any, np.dtype[Any]]
WGS84 = Geod(ellps="WGS84")


def ellipses(major: float, minor: float, bearing: float) -> Ellipses:
    """A batch of one ellipse, in metres and degrees."""
    return Ellipses(np.array([major]), np.array([minor]), np.array([bearing]))


@settings(max_examples=40, deadline=None)
@given(
    latitude=st.floats(-80.0, 80.0),
    longitude=st.floats(-170.0, 170.0),
    major=st.floats(20.0, 50_000.0),
    ratio=st.floats(0.05, 1.0),
    bearing=st.floats(0.0, 179.9),
)
def test_area_is_that_of_the_ellipse(
    latitude: float, longitude: float, major: float, ratio: float, bearing: float
) -> None:
    """64 corners enclose π·a·b within 0.2 %, counter-clockwise (a positive area), and the ring is closed."""
    ring = rings(np.array([latitude]), np.array([longitude]), ellipses(major, major * ratio, bearing))[0]
    assert ring.shape == (65, 2)
    np.testing.assert_array_equal(ring[0], ring[-1])
    area, _ = WGS84.polygon_area_perimeter(ring[:, 0], ring[:, 1])
    assert area == pytest.approx(math.pi * major**2 * ratio, rel=0.002)


def test_corners_against_the_azimuthal_equidistant_projection() -> None:
    """PROJ's own projection around the position shows the ellipse upright in its axes, turned by its bearing."""
    ring = rings(np.array([45.0]), np.array([7.5]), ellipses(30_000.0, 8_000.0, 30.0))[0]
    plane = Transformer.from_crs("EPSG:4326", "+proj=aeqd +lat_0=45 +lon_0=7.5 +datum=WGS84", always_xy=True)
    east, north = plane.transform(ring[:, 0], ring[:, 1])
    turn = math.radians(30.0)
    along = east * math.sin(turn) + north * math.cos(turn)
    across = east * math.cos(turn) - north * math.sin(turn)
    np.testing.assert_allclose((along / 30_000.0) ** 2 + (across / 8_000.0) ** 2, 1.0, atol=1e-4)


def test_mutant_that_adds_radians_to_degrees_is_57_times_too_small() -> None:
    """1000 m north is 1000 m on the ground; offset/R added to degrees without conversion is 17.4 m."""
    latitude, longitude = 45.0, 7.0
    ring = rings(np.array([latitude]), np.array([longitude]), ellipses(1000.0, 500.0, 0.0))[0]
    _, _, distance = WGS84.inv(longitude, latitude, *ring[0])
    assert distance == pytest.approx(1000.0, abs=1e-3)
    _, _, mutant = WGS84.inv(longitude, latitude, longitude, latitude + 1000.0 / 6_371_000.0)
    assert mutant == pytest.approx(17.4, abs=0.1)


def test_batch_is_its_items() -> None:
    """Each item of a batch has the ring that it has alone."""
    batch = Ellipses(np.array([9e3, 5e3]), np.array([2e3, 4e3]), np.array([10.0, 100.0]))
    both = rings(np.array([45.0, -30.0]), np.array([7.0, 150.0]), batch)
    alone = rings(np.array([-30.0]), np.array([150.0]), ellipses(5e3, 4e3, 100.0))
    np.testing.assert_allclose(both[1], alone[0], rtol=0, atol=1e-12)


def test_tiny_and_huge_axes_are_drawn_within_reach() -> None:
    """An axis below the coordinates' resolution, or beyond the Earth's quarter, is drawn at the limit."""
    tiny = rings(np.array([45.0]), np.array([7.0]), ellipses(0.001, 0.0001, 0.0))[0]
    _, _, distance = WGS84.inv(7.0, 45.0, *tiny[0])
    assert distance == pytest.approx(MIN_REACH_M, rel=1e-6)
    huge = rings(np.array([10.0]), np.array([7.0]), ellipses(6e7, 6e7, 0.0))[0]
    area, _ = WGS84.polygon_area_perimeter(huge[:, 0], huge[:, 1])
    assert 0.0 < area < 2.56e14  # half of the Earth
