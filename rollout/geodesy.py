"""How far and in which direction one place lies from another, on WGS84.

What belongs here: offsets of places in metres. What does not: ellipses and what they hold (`probe_answers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rollout.arrays import F64

SEMI_MAJOR_M, FLATTENING = 6_378_137.0, 1.0 / 298.257_223_563
"""WGS84 (NGA.STND.0036, Table 3.1)."""

_ECCENTRICITY_SQUARED = FLATTENING * (2.0 - FLATTENING)


def offsets_m(origin_deg: F64, target_deg: F64) -> F64:
    """East and north [K,2] in metres of the targets as seen from the origins.

    The chord between both places on the ellipsoid has the direction of the normal section, and is made as long as the
    arc over it, 2·R·asin(c/2R), with Euler's radius R of the ellipsoid in that direction,
    1/R = cos²α/M + sin²α/N (Torge & Müller, Geodesy, 4th ed., §4.1.3). Up to 300 km this is the geodesic's offset
    within a metre; between antipodes it is off by some percent. NaN gives NaN.

    Args:
        origin_deg: [K,2] latitude, longitude.
        target_deg: [K,2] latitude, longitude.
    """
    chord_m = _geocentric_m(target_deg) - _geocentric_m(origin_deg)
    latitude, longitude = np.deg2rad(origin_deg).T
    x, y, z = chord_m.T
    outward = x * np.cos(longitude) + y * np.sin(longitude)
    east = y * np.cos(longitude) - x * np.sin(longitude)
    north = z * np.cos(latitude) - outward * np.sin(latitude)
    horizontal_m = np.hypot(east, north)
    scale = np.divide(
        _arc_m(chord_m, east, north, latitude), horizontal_m, out=np.ones_like(east), where=horizontal_m > 0.0
    )
    return np.asarray(np.stack([east, north], axis=-1) * scale[:, None], dtype=np.float64)


def _arc_m(chord_m: F64, east: F64, north: F64, latitude: F64) -> F64:
    meridian_m, vertical_m = _radii_m(latitude)
    azimuth = np.arctan2(east, north)
    radius_m = 1.0 / (np.cos(azimuth) ** 2 / meridian_m + np.sin(azimuth) ** 2 / vertical_m)
    return np.asarray(
        2.0 * radius_m * np.arcsin(np.minimum(np.linalg.norm(chord_m, axis=-1) / (2.0 * radius_m), 1.0)),
        dtype=np.float64,
    )


def _radii_m(latitude: F64) -> tuple[F64, F64]:
    """Radii of curvature M along the meridian and N across it."""
    root = np.sqrt(1.0 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2)
    return SEMI_MAJOR_M * (1.0 - _ECCENTRICITY_SQUARED) / root**3, SEMI_MAJOR_M / root


def _geocentric_m(degrees: F64) -> F64:
    """Earth-centred coordinates [K,3] of places at height zero."""
    latitude, longitude = np.deg2rad(degrees).T
    vertical_m = _radii_m(latitude)[1]
    across = vertical_m * np.cos(latitude)
    up = vertical_m * (1.0 - _ECCENTRICITY_SQUARED) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], axis=-1)
