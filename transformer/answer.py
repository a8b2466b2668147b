"""The model's answer, checked and given units: a position, its standard deviations, and what is doubtful about them.

What belongs here: the meaning and the limits of the model's three outputs. What does not: geometry (`ellipse`,
`geodesy`) and the protocol they arrived by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer.ellipse import axis_angle_rad, covariance_m2, sigma_ellipses
from transformer.errors import InvalidModelOutput

if TYPE_CHECKING:
    from oip.messages import Array
    from transformer.contract import Contract, Region
    from transformer.ellipse import Ellipses

    F32 = np.ndarray[Any, np.dtype[np.float32]]
    F64 = np.ndarray[Any, np.dtype[np.float64]]
    Bool = np.ndarray[Any, np.dtype[np.bool_]]

LARGEST_SIGMA_M = 20_003_931.0
"""Half a meridian of WGS84: no two places are farther apart, so no larger standard deviation means anything."""

_FARTHEST_DEG = np.array([90.0, 180.0])
_POSITION_COLUMNS = (2,)
_UNCERTAINTY_COLUMNS = (2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """B positions with their Gaussian uncertainties.

    Attributes:
        latitude: float64 [B], degrees WGS84.
        longitude: float64 [B], degrees WGS84.
        sigma_x_m: float64 [B], standard deviation along theta, not below the contract's least.
        sigma_y_m: float64 [B], standard deviation across theta, not below the contract's least.
        theta_rad: float64 [B], counter-clockwise from east, [0, π).
        confidence: float32 [B], in [0, 1]; 1 for a model that has no such output.
        degraded: For each item why it deserves less trust: "sigma_floor", "sigma_cap", "outside_region".
    """

    latitude: F64
    longitude: F64
    sigma_x_m: F64
    sigma_y_m: F64
    theta_rad: F64
    confidence: F32
    degraded: tuple[tuple[str, ...], ...]

    @property
    def position(self) -> F64:
        """Latitude and longitude, float64 [B, 2]."""
        return np.stack([self.latitude, self.longitude], axis=-1)

    @property
    def covariance_m2(self) -> F64:
        """East and north, float64 [B, 2, 2]."""
        return covariance_m2(self.sigma_x_m, self.sigma_y_m, self.theta_rad)

    def ellipses(self, k: float) -> Ellipses:
        """The ellipses of Mahalanobis radius k; `Contract.ellipse_scale` has the k of a confidence level."""
        return sigma_ellipses(self.sigma_x_m, self.sigma_y_m, self.theta_rad).scaled(k)


def parse_answer(position: Array, uncertainty: Array, confidence: Array | None, contract: Contract) -> Estimate:
    """Check the model's outputs and give them their meaning.

    Args:
        position: [B, 2], latitude and longitude in degrees.
        uncertainty: [B, 3], sigma_x m, sigma_y m, theta rad counter-clockwise from east; [B, 2] means theta = 0.
        confidence: [B, 1] or [B]; None for a model that has no such output.
        contract: Names the outputs and says where and how well the model can locate.

    Raises:
        InvalidModelOutput: A shape, a value that is not finite, sigma ≤ 0 or beyond the Earth, a place that does not
            exist, or a confidence outside [0, 1].
    """
    names = contract.outputs
    places = _matrix(position, names.position, _POSITION_COLUMNS, items=len(position) if position.ndim else 0)
    spread = _matrix(uncertainty, names.uncertainty, _UNCERTAINTY_COLUMNS, items=len(places))
    _refuse(names.position, _any(np.abs(places) > _FARTHEST_DEG), "is no place on the Earth")
    sigmas = spread[:, :2]
    _refuse(names.uncertainty, _any(sigmas <= 0.0), "has a sigma that is not above 0")
    _refuse(names.uncertainty, _any(sigmas > LARGEST_SIGMA_M), "has a sigma larger than the Earth")
    theta_rad = spread[:, 2] if spread.shape[1] > sigmas.shape[1] else np.zeros(len(spread))
    floor_m, doubts = _doubts(places, sigmas, contract)
    sigmas = np.maximum(sigmas, floor_m)
    return Estimate(
        latitude=places[:, 0],
        longitude=places[:, 1],
        sigma_x_m=sigmas[:, 0],
        sigma_y_m=sigmas[:, 1],
        theta_rad=axis_angle_rad(theta_rad),
        confidence=_confidence(confidence, names.confidence or "confidence", items=len(places)),
        degraded=tuple(tuple(reason for reason, flags in doubts.items() if flags[item]) for item in range(len(places))),
    )


def _matrix(array: Array, name: str, columns: tuple[int, ...], items: int) -> F64:
    """The output as float64 [items, columns], every value finite."""
    allowed = [(items, count) for count in columns]
    if array.dtype.kind != "f" or not items or array.shape not in allowed:
        shapes = " or ".join(f"[B,{count}]" for count in columns)
        raise InvalidModelOutput(f"{name}: must be floating point {shapes}, not {array.dtype} {list(array.shape)}")
    _refuse(name, _any(~np.isfinite(array)), "is not finite")
    return array.astype(np.float64)


def _confidence(array: Array | None, name: str, items: int) -> F32:
    if array is None:
        return np.ones(items, np.float32)
    values = _matrix(array[:, np.newaxis] if array.ndim == 1 else array, name, (1,), items)[:, 0]
    _refuse(name, (values < 0.0) | (values > 1.0), "is outside [0, 1]")
    return values.astype(np.float32)


def _any(flags: Bool) -> Bool:
    """Which items [B] have any of the flags [B, n]."""
    return np.asarray(np.logical_or.reduce(flags, axis=-1))  # `any` goes through Python first


def _refuse(name: str, wrong: Bool, why: str) -> None:
    for item in wrong.nonzero()[0]:
        raise InvalidModelOutput(f"{name}: item {item} {why}")


def _doubts(places: F64, sigmas: F64, contract: Contract) -> tuple[float, dict[str, Bool]]:
    """The least sigma in metres, and which items [B] have which doubt."""
    doubts: dict[str, Bool] = {}
    floor_m = 0.0
    if contract.sigma_range_m is not None:
        floor_m = contract.sigma_range_m.low
        doubts["sigma_floor"] = _any(sigmas < floor_m)
        doubts["sigma_cap"] = _any(sigmas > contract.sigma_range_m.high)
    if contract.region is not None:
        doubts["outside_region"] = ~_inside(places, contract.region)
    return floor_m, doubts


def _inside(places: F64, region: Region) -> Bool:
    latitude, longitude = places[:, 0], places[:, 1]
    east_of_west, west_of_east = longitude >= region.west, longitude <= region.east
    between = east_of_west & west_of_east if region.west <= region.east else east_of_west | west_of_east
    return np.asarray(between & (latitude >= region.south) & (latitude <= region.north))
