"""Calibration on captures of its own: one factor on the sigmas, and the ellipse's scale per confidence level.

What belongs here: what is measured after training, with another seed than training's. What does not: training.

A Gaussian head fitted to a posterior that is not Gaussian can have the right mean square or the right quantiles, not
both. The factor makes the normalised error squared m² = rᵀΣ⁻¹r average 2 (NEES; Bar-Shalom et al., Estimation with
Applications to Tracking and Navigation, §5.4.2); the table k(p) then takes the quantiles of m, so that an ellipse
with semi-axes k(p)·σ holds the share p of the transmitters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.network import gaussian
from reference.pooling import pool

if TYPE_CHECKING:
    from reference.arrays import F64
    from reference.train import Trained

LEVELS = (0.1, 0.25, 0.5, 0.68, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
"""Confidence levels of the table; between them the contract interpolates k(p)/√(−2 ln(1−p))."""

CALIBRATION_SEED = 7_001
_WINDOWS, _CHUNKS, _CHUNK_CASES = 7_000, 10, 20_000


@dataclass(frozen=True, slots=True)
class EllipseScale:
    """The semi-axes of the ellipse at this confidence level are `k` times the sigmas."""

    confidence_level: float
    k: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration found.

    Attributes:
        sigma_factor: To be multiplied onto the network's sigmas.
        ellipse_scale: The table k(p), ascending.
    """

    sigma_factor: float
    ellipse_scale: tuple[EllipseScale, ...]


def calibrate(trained: Trained, seed: int = CALIBRATION_SEED) -> Calibration:
    """Calibrate on 200,000 cases drawn from a pool of windows of its own."""
    windows, rng = pool(seed, _WINDOWS), np.random.default_rng([seed, 1])
    squared = []
    for _ in range(_CHUNKS):
        plane_m, power_mw = windows.draw(rng, _CHUNK_CASES)
        mean_m, covariance_m2 = gaussian(trained.outputs(power_mw))
        squared.append(mahalanobis_squared(plane_m - mean_m, covariance_m2))
    return fit(np.concatenate(squared))


def fit(squared: F64) -> Calibration:
    """The calibration that makes these normalised squared errors [K] average 2 and fill every ellipse."""
    factor_squared = float(squared.mean()) / 2.0
    radii = np.sqrt(np.quantile(squared / factor_squared, LEVELS))
    table = tuple(EllipseScale(level, round(float(k), 4)) for level, k in zip(LEVELS, radii, strict=True))
    return Calibration(float(np.sqrt(factor_squared)), table)


def scale_at(table: tuple[EllipseScale, ...], confidence_level: float) -> float:
    """The scale k at any level.

    Its ratio to the Gaussian √(−2 ln(1−p)) is interpolated linearly in p, and constant beyond the table's ends.
    """
    gaussian_k = gaussian_scale(confidence_level)
    if not table:
        return gaussian_k
    levels = [row.confidence_level for row in table]
    ratios = [row.k / gaussian_scale(row.confidence_level) for row in table]
    return gaussian_k * float(np.interp(confidence_level, levels, ratios))


def gaussian_scale(confidence_level: float) -> float:
    """√(−2 ln(1−p)), the radius of a two-dimensional standard Gaussian that holds the share p (Rayleigh quantile)."""
    return float(np.sqrt(-2.0 * np.log1p(-confidence_level)))


def mahalanobis_squared(error: F64, covariance: F64) -> F64:
    """eᵀΣ⁻¹e [K] of errors [K,2] under covariances [K,2,2]."""
    solved = np.linalg.solve(covariance, error[..., None])[..., 0]
    return np.asarray(np.sum(error * solved, axis=-1), dtype=np.float64)
