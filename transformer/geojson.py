"""Ellipses as GeoJSON (RFC 7946): one Feature for each item.

What belongs here: the text's rules, which are order of coordinates, closed counter-clockwise rings, decimals, and what
happens at the antimeridian and the poles. What does not: where the corners lie (`geodesy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import antimeridian
import numpy as np
import orjson

from transformer.geodesy import rings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformer.ellipse import Ellipses

    F64 = np.ndarray[Any, np.dtype[np.float64]]
    Geometry = Mapping[str, Any]

DECIMALS = 7
"""Of a degree: 1 cm, and what GDAL writes by default (its RFC 65); more would pretend (RFC 7946 §11.2)."""


def features(latitude: F64, longitude: F64, ellipses: Ellipses, confidence_level: float) -> list[bytes]:
    """The ellipses as B texts in UTF-8, each a Feature with a Polygon or MultiPolygon.

    The properties are `center` [longitude, latitude], `confidence_level` (the probability that the polygon holds the
    transmitter), `semi_major_m`, `semi_minor_m` and `bearing_deg` (of the major axis, clockwise from north).

    Args:
        latitude: Degrees [B].
        longitude: Degrees [B].
        ellipses: Scaled to the confidence level.
        confidence_level: In (0, 1).
    """
    corners = np.round(rings(latitude, longitude, ellipses), DECIMALS)
    centers = np.round(np.stack([longitude, latitude], axis=-1), DECIMALS)
    return [
        orjson.dumps(
            {
                "type": "Feature",
                "geometry": geometry(ring),
                "properties": {
                    "center": center,
                    "confidence_level": confidence_level,
                    "semi_major_m": major_m,
                    "semi_minor_m": minor_m,
                    "bearing_deg": bearing_deg,
                },
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for ring, center, major_m, minor_m, bearing_deg in zip(
            corners, centers, ellipses.semi_major_m, ellipses.semi_minor_m, ellipses.bearing_deg, strict=True
        )
    ]


def geometry(ring: F64) -> Geometry:
    """The Polygon or MultiPolygon of one closed counter-clockwise ring [n, 2] of (longitude, latitude).

    A ring that meets neither antimeridian nor pole has no step of 180° of longitude or more, and is written as it is.

    Known limit: around a pole the straight edges between corners are no geodesics, so a ring hundreds of times longer
    than wide that passes within a few of its widths of a pole can cross itself.
    """
    steps = np.diff(ring[:, 0])
    if np.abs(steps).max() < 180.0:  # noqa: PLR2004 - half a turn in degrees
        return {"type": "Polygon", "coordinates": [ring]}
    turns = round(float(np.sum(np.mod(steps + 180.0, 360.0) - 180.0)) / 360.0)
    # Counter-clockwise around a place, the north pole is passed eastward: the turns say which pole lies inside.
    polygon = {"type": "Polygon", "coordinates": [ring.tolist()]}
    # The ring is counter-clockwise already; "fixing" that is asked for only because the default would warn of it.
    cut = antimeridian.fix_geojson(polygon, force_north_pole=turns > 0, force_south_pole=turns < 0, fix_winding=True)
    return _rounded(cut)


def _rounded(shape: Mapping[str, Any]) -> Geometry:
    """The cut adds corners of its own on the antimeridian; they get the same decimals."""
    parts = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
    rounded = [[np.round(np.asarray(ring, np.float64), DECIMALS) for ring in part] for part in parts]
    return {"type": shape["type"], "coordinates": rounded if shape["type"] == "MultiPolygon" else rounded[0]}
