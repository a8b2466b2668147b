from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from geojson_pydantic import Feature
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from shapely.geometry import Point, shape

from transformer.ellipse import Ellipses
from transformer.geojson import features

WGS84 = Geod(ellps="WGS84")


def feature(latitude: float, longitude: float, major: float, minor: float, bearing: float) -> dict[str, Any]:
    """One Feature, judged by geojson-pydantic and shapely: valid, CCW, within the world, at most 7 decimals."""
    axes = Ellipses(np.array([major]), np.array([minor]), np.array([bearing]))
    (text,) = features(np.array([latitude]), np.array([longitude]), axes, 0.95)
    document: dict[str, Any] = json.loads(text)
    Feature.model_validate(document)
    polygon = shape(document["geometry"])
    assert polygon.is_valid
    for part in parts(document):
        assert part.exterior.is_ccw
        assert all(decimals(x) <= 7 and decimals(y) <= 7 for x, y in part.exterior.coords)
    west, south, east, north = polygon.bounds
    assert (west >= -180.0, south >= -90.0, east <= 180.0, north <= 90.0) == (True,) * 4
    return document


def decimals(value: float) -> int:
    """Decimals that the shortest text of the number has."""
    return max(0, -int(Decimal(repr(value)).normalize().as_tuple().exponent))


def parts(document: dict[str, Any]) -> list[Any]:
    """The polygons of a Feature."""
    polygon = shape(document["geometry"])
    return list(getattr(polygon, "geoms", [polygon]))


def area_m2(document: dict[str, Any]) -> float:
    """Geodesic area of a Feature."""
    return sum(abs(WGS84.geometry_area_perimeter(part)[0]) for part in parts(document))


def test_feature_of_an_ordinary_ellipse() -> None:
    """Longitude comes first, the ring is closed, and the properties say what the polygon is."""
    document = feature(45.0, 7.5, 30_000.0, 10_000.0, 30.0)
    ring = document["geometry"]["coordinates"][0]
    assert document["geometry"]["type"] == "Polygon"
    assert ring[0] == ring[-1]
    assert len(ring) == 65
    assert shape(document["geometry"]).contains(Point(7.5, 45.0))
    assert document["properties"] == {
        "center": [7.5, 45.0],
        "confidence_level": 0.95,
        "semi_major_m": 30_000.0,
        "semi_minor_m": 10_000.0,
        "bearing_deg": 30.0,
    }


@pytest.mark.parametrize("longitude", [180.0, -180.0, 179.9, -179.8])
@pytest.mark.parametrize("latitude", [0.0, 45.0, -70.0])
def test_split_at_the_antimeridian(latitude: float, longitude: float) -> None:
    """Across 180° the ellipse is two polygons of together the same area, none of them around the world."""
    document = feature(latitude, longitude, 40_000.0, 30_000.0, 70.0)
    assert document["geometry"]["type"] == "MultiPolygon"
    assert len(parts(document)) == 2
    assert area_m2(document) == pytest.approx(math.pi * 40_000.0 * 30_000.0, rel=0.002)
    west, _, east, _ = zip(*(part.bounds for part in parts(document)), strict=True)
    assert max(np.subtract(east, west)) < 5.0


@pytest.mark.parametrize("latitude", [89.9, -89.9, 90.0, -90.0])
@pytest.mark.parametrize("longitude", [0.0, 7.5, 180.0])
def test_poles_are_enclosed(latitude: float, longitude: float) -> None:
    """An ellipse around a pole reaches ±90° at every longitude."""
    document = feature(latitude, longitude, 40_000.0, 30_000.0, 20.0)
    pole = math.copysign(89.9999, latitude)
    world = shape(document["geometry"])
    assert all(world.covers(Point(meridian, pole)) for meridian in range(-180, 181, 10))


@settings(max_examples=60, deadline=None)
@given(
    latitude=st.one_of(st.floats(-90.0, 90.0), st.sampled_from([89.9, -89.9, 0.0])),
    longitude=st.one_of(st.floats(-180.0, 180.0), st.sampled_from([180.0, -180.0, 179.99])),
    major=st.floats(0.0, 7.0).map(lambda exponent: 10.0**exponent),
    ratio=st.floats(0.05, 1.0),
    bearing=st.floats(0.0, 179.99),
)
def test_any_ellipse_is_valid(latitude: float, longitude: float, major: float, ratio: float, bearing: float) -> None:
    """From 1 m to 10,000 km, anywhere on the Earth, foreign judges find the polygon valid."""
    feature(latitude, longitude, major, major * ratio, bearing)
