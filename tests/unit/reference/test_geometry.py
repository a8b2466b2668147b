from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.geometry import RECEIVERS, WGS84, Frame, offsets_m, polynomial_terms

FRAME = Frame(RECEIVERS)
BOX = FRAME.box(30_000.0)


def test_bounding_box_with_margin_has_the_documented_size() -> None:
    """The simulated region is the 205 km × 180 km that every figure of the evaluation refers to."""
    assert BOX.east_m - BOX.west_m == pytest.approx(205_000.0, rel=0.01)
    assert BOX.north_m - BOX.south_m == pytest.approx(180_000.0, rel=0.01)


@given(east=st.floats(-120e3, 120e3), north=st.floats(-120e3, 120e3))
def test_plane_and_degrees_are_inverse(east: float, north: float) -> None:
    """A position survives the way to degrees and back."""
    plane_m = np.array([[east, north]])
    assert FRAME.to_plane(FRAME.to_degrees(plane_m)) == pytest.approx(plane_m, abs=1e-3)


def test_frame_keeps_geodesic_distances() -> None:
    """Distances in the plane are those on the ellipsoid (Giaveno to Genova), against geodesics of another code path."""
    sites = FRAME.sites_m()
    first, last = RECEIVERS[0], RECEIVERS[5]
    _, _, distance_m = WGS84.inv(first.longitude, first.latitude, last.longitude, last.latitude)
    assert np.linalg.norm(sites[0] - sites[5]) == pytest.approx(distance_m, rel=1e-4)


def test_polynomial_is_right_within_a_metre() -> None:
    """The cubic that the graph carries replaces the inverse projection, also 40 km outside the region."""
    plane_m = BOX.grown(40_000.0).cell_centres(3_300.0)
    degrees = polynomial_terms(plane_m) @ FRAME.polynomial(BOX)
    assert np.hypot(*offsets_m(FRAME.to_degrees(plane_m), degrees).T).max() < 1.0


def test_linear_polynomial_would_miss_by_kilometres() -> None:
    """The cubic terms are needed: without them the error exceeds a kilometre."""
    plane_m = BOX.cell_centres(5_000.0)
    terms = polynomial_terms(plane_m)[:, [0, 1, 4]]
    truth = FRAME.to_degrees(plane_m)
    coefficients = np.linalg.lstsq(terms, truth, rcond=None)[0]
    assert np.hypot(*offsets_m(truth, terms @ coefficients).T).max() > 1_000.0


def test_offsets_are_east_then_north() -> None:
    """One arc minute of latitude is a nautical mile to the north, and nothing to the east."""
    offset = offsets_m(np.array([[45.0, 8.0]]), np.array([[45.0 + 1.0 / 60.0, 8.0]]))
    assert offset[0] == pytest.approx([0.0, 1_852.0], abs=1.0)


def test_cells_tile_the_box() -> None:
    """Cell centres lie half a cell inside the box, and their mean is its centre."""
    centres = BOX.cell_centres(3_000.0)
    assert centres.min(axis=0) == pytest.approx([BOX.west_m + 1_500.0, BOX.south_m + 1_500.0], abs=30.0)
    assert centres.mean(axis=0) == pytest.approx(
        [(BOX.west_m + BOX.east_m) / 2.0, (BOX.south_m + BOX.north_m) / 2.0], abs=1e-6
    )
