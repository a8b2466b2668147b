"""Ellipses on the Earth: from metres around a position to longitudes and latitudes on WGS84.

What belongs here: geodesics. What does not: the plane's algebra (`ellipse`) and the text of GeoJSON (`geojson`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import Geod

if TYPE_CHECKING:
    from transformer.ellipse import Ellipses

    F64 = np.ndarray[Any, np.dtype[np.float64]]

WGS84 = Geod(ellps="WGS84")

DEFAULT_POINTS = 64
"""A polygon of 64 corners on the ellipse has (64/2π)·sin(2π/64) = 0.9984 of its area."""

MAX_REACH_M = 9_500_000.0
"""Farthest corner. Beyond a quarter of the Earth's girth (10,002 km) inside and outside of a ring change places."""

MIN_REACH_M = 0.5
"""Smallest semi-axis drawn: coordinates of 7 decimals are 1 cm apart, and a ring thinner than that crosses itself."""


def rings(latitude: F64, longitude: F64, ellipses: Ellipses, points: int = DEFAULT_POINTS) -> F64:
    """Closed counter-clockwise rings [B, points + 1, 2] of (longitude, latitude) in degrees, longitudes in [−180, 180].

    Each corner lies at the ellipse's distance and azimuth from the position along a geodesic (Karney, J. Geodesy 87,
    2013), so the ellipse is one in the azimuthal equidistant plane around the position. Dividing metres by the radii of
    curvature instead is wrong by 478 m for an ellipse of 30 km at 45° latitude, and useless near the poles.

    Args:
        latitude: Degrees [B].
        longitude: Degrees [B].
        ellipses: B ellipses, already scaled to their probability; axes are drawn within 0.5 m and 9,500 km.
        points: Corners of each ring.
    """
    azimuth_deg, distance_m = _polar(ellipses, points)
    start = np.broadcast_to(longitude[:, np.newaxis], distance_m.shape)
    height = np.broadcast_to(latitude[:, np.newaxis], distance_m.shape)
    longitudes, latitudes, _ = WGS84.fwd(start, height, azimuth_deg, distance_m, return_back_azimuth=False)
    corners = np.stack([longitudes, latitudes], axis=-1)
    return np.concatenate([corners, corners[:, :1]], axis=1)


def _polar(ellipses: Ellipses, points: int) -> tuple[F64, F64]:
    """Azimuth in degrees and distance in metres of every corner, each [B, points], counter-clockwise."""
    turn = np.arange(points) * (2.0 * np.pi / points)
    along = np.multiply.outer(np.maximum(ellipses.semi_major_m, MIN_REACH_M), np.cos(turn))
    across = np.multiply.outer(np.maximum(ellipses.semi_minor_m, MIN_REACH_M), np.sin(turn))
    # Across is 90° counter-clockwise of along, and azimuths run clockwise.
    azimuth_deg = ellipses.bearing_deg[:, np.newaxis] - np.degrees(np.arctan2(across, along))
    return np.asarray(azimuth_deg), np.minimum(np.hypot(along, across), MAX_REACH_M)
