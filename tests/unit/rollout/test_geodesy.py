from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from rollout.geodesy import offsets_m

WGS84 = Geod(ellps="WGS84")


@pytest.mark.parametrize(("reach_m", "tolerance_m"), [(1e3, 1e-6), (1e5, 0.02), (3e5, 0.5), (1e6, 15.0)])
def test_offsets_are_those_of_geodesics(reach_m: float, tolerance_m: float) -> None:
    """Against pyproj, everywhere on the Earth: across the poles and the antimeridian too."""
    rng = np.random.default_rng(5)
    latitude, longitude = rng.uniform(-89.9, 89.9, 5_000), rng.uniform(-180.0, 180.0, 5_000)
    azimuth, distance_m = rng.uniform(-180.0, 180.0, 5_000), rng.uniform(0.0, reach_m, 5_000)
    east, north, _ = WGS84.fwd(longitude, latitude, azimuth, distance_m)
    found = offsets_m(np.stack([latitude, longitude], axis=-1), np.stack([north, east], axis=-1))
    bearing = np.deg2rad(azimuth)
    expected = np.stack([distance_m * np.sin(bearing), distance_m * np.cos(bearing)], axis=-1)
    assert np.abs(found - expected).max() < tolerance_m


@given(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0))
def test_a_place_is_nowhere_from_itself(latitude: float, longitude: float) -> None:
    """No distance, and no division by it."""
    place = np.array([[latitude, longitude]])
    assert (offsets_m(place, place) == 0.0).all()


def test_no_place_gives_no_offset() -> None:
    """NaN stays NaN, without a warning, and does not touch its neighbours."""
    found = offsets_m(np.array([[np.nan, np.nan], [45.0, 7.0]]), np.array([[45.0, 7.0], [45.0, 7.1]]))
    assert np.isnan(found[0]).all()
    assert found[1, 0] == pytest.approx(7_885.0, abs=20.0)
