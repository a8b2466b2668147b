"""How good a set of answers is: errors, coverage, consistency, likelihood, reliability, each with its interval.

What belongs here: pure statistics of arrays. What does not: where the answers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.calibrate import mahalanobis_squared

if TYPE_CHECKING:
    from reference.arrays import F64, Bools

Z_95 = 1.959964
"""The 97.5 % quantile of the standard Gaussian: every interval here is two-sided at 95 %."""

_RESAMPLES, _BOOTSTRAP_SEED = 500, 20_240


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers whose confidence lies between `low` and `high`: what they claimed on average, and what came true."""

    low: float
    high: float
    count: int
    claimed: float
    observed: float


def rms(error_m: F64) -> Interval:
    """Root mean square length of errors [K,2] in metres; the interval is a percentile bootstrap (Efron 1979)."""
    squared = np.sum(error_m**2, axis=1)
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    count = len(squared)
    means = [squared[rng.integers(count, size=count)].mean() for _ in range(_RESAMPLES)]
    low, high = np.sqrt(np.quantile(means, (0.025, 0.975)))
    return Interval(float(np.sqrt(squared.mean())), float(low), float(high))


def share(hits: Bools) -> Interval:
    """Share of true entries with Wilson's interval (Wilson 1927), which holds near 0 and 1 too."""
    count, value = len(hits), float(hits.mean())
    spread = Z_95**2 / count
    middle = (value + spread / 2.0) / (1.0 + spread)
    half = Z_95 / (1.0 + spread) * float(np.sqrt(value * (1.0 - value) / count + spread / (4.0 * count)))
    return Interval(value, middle - half, middle + half)


def mean(values: F64) -> Interval:
    """Mean of [K] values with its Gaussian interval from their own spread."""
    value = float(values.mean())
    half = Z_95 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    return Interval(value, value - half, value + half)


def nees(error_m: F64, covariance_m2: F64) -> Interval:
    """Normalised estimation error squared: 2 for honest covariances (Bar-Shalom et al. 2001, §5.4.2)."""
    return mean(mahalanobis_squared(error_m, covariance_m2))


def log_likelihoods(error_m: F64, covariance_m2: F64) -> F64:
    """Gaussian log density [K] of the errors, per km²: a proper score, for comparing models on the same cases."""
    determinant_km4 = np.linalg.det(covariance_m2 / 1e6)
    squared = mahalanobis_squared(error_m, covariance_m2)
    return np.asarray(-0.5 * squared - 0.5 * np.log(determinant_km4) - np.log(2.0 * np.pi), dtype=np.float64)


def paired_difference(scores: F64, baseline: F64) -> Interval:
    """Mean of the per-case differences; better than the baseline when the whole interval is above zero."""
    return mean(scores - baseline)


def inside_ellipse(error_m: F64, ellipse: F64) -> Bools:
    """Whether offsets [K,2] (east, north of the ellipse's centre, metres) lie in their ellipses.

    Args:
        error_m: East and north offsets of the truth.
        ellipse: [K,3] semi-major axis m, semi-minor axis m, bearing of the major axis in degrees clockwise from north.
    """
    major_m, minor_m, bearing_deg = ellipse.T
    bearing = np.deg2rad(bearing_deg)
    east, north = error_m.T
    along = east * np.sin(bearing) + north * np.cos(bearing)
    across = east * np.cos(bearing) - north * np.sin(bearing)
    return np.asarray((along / major_m) ** 2 + (across / minor_m) ** 2 <= 1.0, dtype=np.bool_)


def reliability(confidence: F64, hits: Bools, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram of [K] confidences against what happened, in equal bins; empty ones are left out."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(members.sum()),
            claimed=float(confidence[members].mean()),
            observed=float(hits[members].mean()),
        )
        for number in range(bins)
        if (members := index == number).any()
    )


def ellipses(covariance_m2: F64, k: float) -> F64:
    """[K,3] semi-major m, semi-minor m, bearing in degrees clockwise from north in [0,180), k sigmas large."""
    variances, directions = np.linalg.eigh(covariance_m2)
    bearing = np.rad2deg(np.arctan2(directions[:, 0, 1], directions[:, 1, 1])) % 180.0
    return np.stack([k * np.sqrt(variances[:, 1]), k * np.sqrt(variances[:, 0]), bearing], axis=-1)


def covariances(uncertainty: F64) -> F64:
    """[K,2,2] covariances (east, north, m²) of [K,3] sigma_x m, sigma_y m, theta rad: R(θ)·diag(σ²)·R(θ)ᵀ."""
    sigma_x, sigma_y, theta = uncertainty.T
    cosine, sine = np.cos(theta), np.sin(theta)
    rotation = np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)
    scaled = rotation * np.stack([sigma_x, sigma_y], axis=-1)[:, None, :]
    return np.asarray(scaled @ np.swapaxes(scaled, 1, 2), dtype=np.float64)
