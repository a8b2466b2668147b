"""What several test modules of the rollout room need: plausible measurements, and answers with known statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import norm

from rollout.measurements import ArmCounts, Calls, Histogram, Look, ProbeAnswers, ProbeResults

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS_S = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 10.0)


def _histogram(calls: int, median_s: float) -> Histogram:
    """What a log-normal distribution puts into each bucket on average: nothing is random, and counts only grow."""
    below = norm.cdf(np.log(np.array(BOUNDS_S) / median_s) / 0.4)
    return Histogram(BOUNDS_S, tuple((calls * np.diff(below, prepend=0.0, append=1.0)).tolist()))


@pytest.fixture(scope="session")
def histogram() -> Callable[[int, float], Histogram]:
    """A histogram of so many log-normal durations around a median in seconds."""
    return _histogram


@pytest.fixture(scope="session")
def arm() -> Callable[..., ArmCounts]:
    """One arm's counts."""

    def make(calls: int, failed: int, median_s: float = 0.012) -> ArmCounts:
        return ArmCounts(Calls(calls - failed, failed=failed), _histogram(calls, median_s))

    return make


@pytest.fixture(scope="session")
def look(arm: Callable[..., ArmCounts]) -> Callable[..., Look]:
    """A look at a canary with a tenth of the calls."""

    def make(calls: int = 3_000, failed: int = 30, *, median_s: float = 0.012, elapsed_s: float = 600.0) -> Look:
        return Look(elapsed_s, arm(10 * calls, calls // 10), arm(calls, failed, median_s))

    return make


@pytest.fixture(scope="session")
def probe() -> Callable[..., ProbeResults]:
    """Probe results of Gaussian errors with the served covariance times `inflation`, from so many captures."""

    def answers(error_m: np.ndarray, covariance_m2: np.ndarray, levels: tuple[float, ...]) -> ProbeAnswers:
        squares = np.einsum("ki,kij,kj->k", error_m, np.linalg.inv(covariance_m2), error_m)
        inside = np.stack([squares <= -2.0 * np.log1p(-level) for level in levels], axis=-1)
        return ProbeAnswers(error_m, covariance_m2, inside, np.full(len(error_m), 0.5))

    def make(captures: int, *, inflation: float = 1.0, stretch: float = 1.0) -> ProbeResults:
        rng, levels = np.random.default_rng(captures), (0.5, 0.95)
        factor = rng.normal(size=(captures, 2, 2)) * 1e4
        covariance_m2 = factor @ factor.swapaxes(1, 2) + 1e6 * np.eye(2)
        error_m = np.einsum("kij,kj->ki", np.linalg.cholesky(covariance_m2), rng.standard_normal((captures, 2)))
        return ProbeResults(
            levels,
            np.arange(captures),
            answers(error_m, covariance_m2, levels),
            answers(error_m * stretch, covariance_m2 * inflation, levels),
        )

    return make
