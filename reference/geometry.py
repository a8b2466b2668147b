"""Where the receivers stand, and the plane in which simulation, training and the exact posterior work.

What belongs here: the sites, the local frame and its inverse as a polynomial. What does not: radio.

The frame is the azimuthal equidistant projection (AEQD) of WGS84 centred on the receivers' centroid: x is east, y is
north, both in metres, distances from the centre are exact, and at 100 km from it scale is wrong by less than 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyproj import Geod, Proj

if TYPE_CHECKING:
    from reference.arrays import F64

WGS84 = Geod(ellps="WGS84")

POLYNOMIAL_UNIT_M = 100_000.0
"""East and north are divided by this before they enter the polynomial, so that its terms are of order one."""

_POLYNOMIAL_REACH_M = 60_000.0
_EXPONENTS = tuple((i, j) for i in range(4) for j in range(4 - i))


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver site: WGS84 degrees and metres above the sea."""

    name: str
    latitude: float
    longitude: float
    altitude_m: float


RECEIVERS = (
    Receiver("Aquila di Giaveno", 45.02, 7.29, 600.0),
    Receiver("Montanaro", 45.234, 7.857, 300.0),
    Receiver("Torino", 45.044, 7.672, 250.0),
    Receiver("Coazze", 45.03, 7.27, 700.0),
    Receiver("Passo dei Giovi", 44.561, 8.956, 480.0),
    Receiver("Genova", 44.395, 8.956, 100.0),
    Receiver("Milano-Baggio", 45.478, 9.123, 120.0),
)
"""The seven WebSDR sites of north-west Italy that Heimdall lists."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in the local frame, in metres."""

    west_m: float
    south_m: float
    east_m: float
    north_m: float

    def grown(self, margin_m: float) -> Box:
        """The rectangle with `margin_m` added on every side."""
        return Box(self.west_m - margin_m, self.south_m - margin_m, self.east_m + margin_m, self.north_m + margin_m)

    def uniform(self, rng: np.random.Generator, count: int) -> F64:
        """Positions [count,2] (east, north) in metres, uniform over the rectangle."""
        return rng.uniform((self.west_m, self.south_m), (self.east_m, self.north_m), (count, 2))

    def cell_centres(self, step_m: float) -> F64:
        """Centres [P,2] of equal cells of about `step_m` that tile the rectangle."""
        east, north = (
            low + (np.arange(cells) + 0.5) * (high - low) / cells
            for low, high in ((self.west_m, self.east_m), (self.south_m, self.north_m))
            for cells in (max(1, round((high - low) / step_m)),)
        )
        return np.stack(np.meshgrid(east, north), axis=-1).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Frame:
    """The local plane of a set of receivers."""

    receivers: tuple[Receiver, ...]

    @property
    def _projection(self) -> Proj:
        latitude = float(np.mean([receiver.latitude for receiver in self.receivers]))
        longitude = float(np.mean([receiver.longitude for receiver in self.receivers]))
        return Proj(proj="aeqd", lat_0=latitude, lon_0=longitude, ellps="WGS84")

    def to_plane(self, degrees: F64) -> F64:
        """[K,2] latitude, longitude in degrees → [K,2] east, north in metres."""
        east, north = self._projection(degrees[:, 1], degrees[:, 0])
        return np.stack([east, north], axis=-1)

    def to_degrees(self, plane_m: F64) -> F64:
        """[K,2] east, north in metres → [K,2] latitude, longitude in degrees."""
        longitude, latitude = self._projection(plane_m[:, 0], plane_m[:, 1], inverse=True)
        return np.stack([latitude, longitude], axis=-1)

    def sites_m(self) -> F64:
        """[R,2] east, north of every receiver in metres."""
        return self.to_plane(np.array([(receiver.latitude, receiver.longitude) for receiver in self.receivers]))

    def box(self, margin_m: float) -> Box:
        """The receivers' bounding rectangle with a margin."""
        sites = self.sites_m()
        (west, south), (east, north) = sites.min(axis=0), sites.max(axis=0)
        return Box(float(west), float(south), float(east), float(north)).grown(margin_m)

    def polynomial(self, box: Box) -> F64:
        """Coefficients [10,2] of cubic polynomials for latitude and longitude, fitted over `box` and 60 km around it.

        The model's graph needs the inverse projection, which ONNX cannot express; multiply them with
        `polynomial_terms`. A linear fit is wrong by up to 1.7 km here, this one by less than 1 m.
        """
        plane_m = box.grown(_POLYNOMIAL_REACH_M).cell_centres(4_000.0)
        coefficients, *_ = np.linalg.lstsq(polynomial_terms(plane_m), self.to_degrees(plane_m), rcond=None)
        return np.asarray(coefficients, dtype=np.float64)


def polynomial_terms(plane_m: F64) -> F64:
    """The ten monomials e^i·n^j with i + j ≤ 3 of [K,2] positions, as [K,10]."""
    east, north = (plane_m / POLYNOMIAL_UNIT_M).T
    return np.stack([east**i * north**j for i, j in _EXPONENTS], axis=-1)


def polynomial_exponents() -> tuple[tuple[int, int], ...]:
    """The exponents (i, j) in the order of `polynomial_terms`."""
    return _EXPONENTS


def offsets_m(origin_degrees: F64, target_degrees: F64) -> F64:
    """East and north [K,2] in metres of the targets as seen from the origins, along WGS84 geodesics.

    Args:
        origin_degrees: [K,2] latitude, longitude.
        target_degrees: [K,2] latitude, longitude.
    """
    azimuth, _, distance_m = WGS84.inv(
        origin_degrees[:, 1], origin_degrees[:, 0], target_degrees[:, 1], target_degrees[:, 0]
    )
    bearing = np.deg2rad(azimuth)
    return np.stack([distance_m * np.sin(bearing), distance_m * np.cos(bearing)], axis=-1)
