"""The acceptance of the whole slice: full IQ through the two servers, judged against the exact posterior."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import shapely

from reference import metrics
from reference.client import Service
from reference.evaluate import Judged, judge_service
from reference.geometry import offsets_m
from reference.simulate import blocks, captures

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.arrays import F64
    from reference.simulate import Captures

pytestmark = pytest.mark.timeout(600)  # 2,000 captures through both servers
CASES, SEED = 2_000, 99
Z = 2.58
"""The 99.5 % quantile of the standard Gaussian: allowances are two-sided at 99 %."""


@pytest.fixture(scope="module")
def judged(transformer: Any) -> Judged:  # noqa: ANN401 - of conftest.py
    """The service's answers to simulated cases, with the exact posterior mean's errors beside them."""

    async def judge() -> Judged:
        async with Service(transformer.url, timeout_s=60.0) as service:
            return await judge_service(service, blocks(SEED, CASES))

    return asyncio.run(judge())


def faults(judged: Judged, baseline: Judged | None = None) -> list[str]:
    """What fails the acceptance; empty for a service that may be delivered.

    RMS error: the ratio r of two root mean squares over the same n cases has, by the delta method, the standard error
    √(Σ(aᵢ − r²·bᵢ)²)/n / (2·r·b̄) with squared errors a of the service and b of the exact posterior mean, for
    r² = ā/b̄. Coverage: the binomial's √(p(1−p)/n). NEES: the deviation of m² over √n. With a baseline, the mean of the
    paired differences of log-likelihood must not lie below zero beyond doubt: small mutants show there first.
    """
    found = []
    own, exact = np.sum(judged.error_m**2, axis=1), np.sum(judged.bayes_error_m**2, axis=1)
    ratio = float(np.sqrt(own.mean() / exact.mean()))
    error = float(np.sqrt(np.sum((own - ratio**2 * exact) ** 2)) / len(own) / (2.0 * ratio * exact.mean()))
    if ratio > 1.03 + Z * error:
        found.append(f"rms {ratio:.4f}")
    for level, ellipse in judged.estimates.ellipses.items():
        share = float(metrics.inside_ellipse(judged.error_m, ellipse).mean())
        if abs(share - level) > 0.01 + Z * float(np.sqrt(level * (1.0 - level) / len(own))):
            found.append(f"coverage {level}: {share:.4f}")
    squared = np.einsum("ki,kij,kj->k", judged.error_m, np.linalg.inv(judged.estimates.covariance_m2), judged.error_m)
    if abs(float(squared.mean()) - 2.0) > 0.15 + Z * float(squared.std() / np.sqrt(len(own))):
        found.append(f"nees {squared.mean():.3f}")
    if baseline is not None:
        difference = judged.log_likelihoods() - baseline.log_likelihoods()
        if difference.mean() < -Z * difference.std() / np.sqrt(len(own)):
            found.append(f"log-likelihood {difference.mean():.4f}")
    return found


def test_the_service_is_accepted(judged: Judged) -> None:
    """2,000 cases: RMS within 3 % of exact Bayes, ellipses that hold their share at five levels, NEES 2."""
    assert len(judged.error_m) == CASES
    assert faults(judged, judged) == []


def _turned(ellipse: F64, bearing_deg: F64) -> F64:
    return np.stack([ellipse[:, 0], ellipse[:, 1], bearing_deg], axis=-1)


def _with_theta(judged: Judged, change: Callable[[F64], F64]) -> Judged:
    """Covariances and ellipses with another orientation; theta is counter-clockwise from east."""
    axes = metrics.ellipses(judged.estimates.covariance_m2, 1.0)
    theta = change(np.deg2rad(90.0 - axes[:, 2]))
    covariance = metrics.covariances(np.stack([axes[:, 0], axes[:, 1], theta], axis=-1))
    bearing_deg = np.mod(90.0 - np.rad2deg(theta), 180.0)
    ellipses = {level: _turned(ellipse, bearing_deg) for level, ellipse in judged.estimates.ellipses.items()}
    return _answering(judged, covariance_m2=covariance, ellipses=ellipses)


def _answering(judged: Judged, **changes: Any) -> Judged:  # noqa: ANN401 - members of Estimates
    return dataclasses.replace(judged, estimates=dataclasses.replace(judged.estimates, **changes))


def _theta_unchanged(judged: Judged) -> Judged:
    return _with_theta(judged, lambda theta: theta)


def _theta_dropped(judged: Judged) -> Judged:
    return _with_theta(judged, np.zeros_like)


def _theta_flipped(judged: Judged) -> Judged:
    return _with_theta(judged, np.negative)


def _bearing_for_theta(judged: Judged) -> Judged:
    return _with_theta(judged, lambda theta: np.pi / 2.0 - theta)


def _coordinates_swapped(judged: Judged) -> Judged:
    position = judged.estimates.position_deg
    truth = position + _degrees_of(judged)
    return dataclasses.replace(judged, error_m=offsets_m(position[:, ::-1], truth))


def _degrees_of(judged: Judged) -> F64:
    """The errors in degrees, to first order: enough where positions are thousands of kilometres off."""
    north, east = judged.error_m[:, 1], judged.error_m[:, 0]
    latitude = np.deg2rad(judged.estimates.position_deg[:, 0])
    return np.stack([north / 111_132.0, east / (111_320.0 * np.cos(latitude))], axis=-1)


def _one_dimensional_factors(judged: Judged) -> Judged:
    """Ellipses by the Gaussian quantiles of one dimension (0.674, 0.994, 1.645, 1.960, 2.576)."""
    factors = {0.5: 0.6745, 0.68: 0.9945, 0.9: 1.6449, 0.95: 1.9600, 0.99: 2.5758}
    covariance = judged.estimates.covariance_m2
    return _answering(judged, ellipses={level: metrics.ellipses(covariance, k) for level, k in factors.items()})


def _sigmas_inflated(judged: Judged) -> Judged:
    """14 % too large, while the ellipses stay: only NEES and likelihood see it."""
    return _answering(judged, covariance_m2=judged.estimates.covariance_m2 * 1.3)


@pytest.mark.parametrize(
    "mutant",
    [
        _theta_dropped,
        _theta_flipped,
        _bearing_for_theta,
        _coordinates_swapped,
        _one_dimensional_factors,
        _sigmas_inflated,
    ],
)
def test_mutants_are_not_accepted(judged: Judged, mutant: Callable[[Judged], Judged]) -> None:
    """Each mistake that the acceptance must catch, made on the same answers, is caught; the answers themselves pass."""
    assert faults(mutant(judged), judged) != []
    assert faults(_theta_unchanged(judged), judged) == []


@pytest.fixture(scope="module")
def polygons(transformer: Any) -> tuple[Captures, list[shapely.Polygon], Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Captures, the polygons served for them at 90 %, and the served position and ellipse."""
    drawn = captures(SEED, 96)
    outputs = ("position", "ellipse", "geojson")
    served = transformer.infer(drawn.iq, *outputs, confidence_level=0.9)
    shapes = [shapely.geometry.shape(orjson.loads(one)["geometry"]) for one in served.output("geojson").array]
    return drawn, shapes, served


def test_polygons_hold_their_share(polygons: tuple[Captures, list[shapely.Polygon], Any]) -> None:
    """The served polygons hold exactly the transmitters that the served ellipses hold, but for those on the edge."""
    drawn, shapes, served = polygons
    inside = _inside(shapes, drawn.position_deg)
    error_m = offsets_m(served.output("position").array, drawn.position_deg)
    expected = metrics.inside_ellipse(error_m, served.output("ellipse").array)
    assert np.count_nonzero(inside != expected) <= 2
    assert abs(inside.mean() - 0.9) < 0.01 + Z * np.sqrt(0.09 / len(shapes))


def test_polygons_with_radians_for_degrees_are_not_accepted(
    polygons: tuple[Captures, list[shapely.Polygon], Any],
) -> None:
    """Offsets in radians added to degrees make polygons 57 times too small, which hold nobody."""
    drawn, shapes, _ = polygons
    factor = np.pi / 180.0
    shrunk = [shapely.affinity.scale(one, factor, factor, origin="center") for one in shapes]
    assert _inside(shrunk, drawn.position_deg).mean() < 0.1


def _inside(shapes: list[shapely.Polygon], position_deg: F64) -> Any:  # noqa: ANN401 - bool [K]
    return np.asarray(shapely.contains_xy(shapes, position_deg[:, 1], position_deg[:, 0]))
