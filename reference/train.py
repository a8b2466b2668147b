"""Training of the reference network: simulated powers, Adam, a cosine schedule. Same seed, same weights.

What belongs here: the optimiser and its settings. What does not: the loss (`network`), export, calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.network import LENGTH_M, Network
from reference.pooling import pool

if TYPE_CHECKING:
    from reference.arrays import F32, F64
    from reference.pooling import Pool

SMALLEST_MW = 1e-20
"""Powers are raised to this before the logarithm; it is 75 dB below the receivers' noise."""

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
"""Adam's defaults (Kingma & Ba 2015, algorithm 1)."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained."""

    seed: int = 1
    """Everything random comes from it."""
    windows: int = 14_000
    """Simulated windows in the pool that batches are drawn from."""
    steps: int = 4_000
    """Adam steps; every one sees new positions and shadowing."""
    batch: int = 512
    """Cases per step."""
    width: int = 128
    """Units per hidden layer."""
    learning_rate: float = 4e-3
    """Peak of the schedule: a short linear rise, then half a cosine to zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained network with the standardisation of its inputs ([14] each)."""

    network: Network
    mean: F64
    std: F64

    def outputs(self, power_mw: F32) -> F32:
        """Network outputs [K,6] for powers [K,R,2] in mW."""
        return self.network.forward(standardised(power_mw, self.mean, self.std))[2]


def train(settings: Training) -> Trained:
    """Train a network from nothing."""
    rng = np.random.default_rng([settings.seed, 1])
    windows = pool(settings.seed, settings.windows)
    logarithms = log_powers(windows.draw(rng, 10_000)[1])
    mean, std = logarithms.mean(axis=0), logarithms.std(axis=0)
    trained = Trained(Network(logarithms.shape[1], settings.width, rng), mean, std)
    _descend(trained, windows, settings, rng)
    return trained


def log_powers(power_mw: F32) -> F64:
    """Natural logarithms [K,2R] of powers [K,R,2]: per receiver in band, then out of band."""
    logarithms: F64 = np.log(np.maximum(power_mw, SMALLEST_MW, dtype=np.float64))
    return logarithms.reshape(len(power_mw), -1)


def standardised(power_mw: F32, mean: F64, std: F64) -> F32:
    """Network inputs [K,2R] of powers [K,R,2] in mW."""
    return ((log_powers(power_mw) - mean) / std).astype(np.float32)


def _descend(trained: Trained, windows: Pool, settings: Training, rng: np.random.Generator) -> None:
    network = trained.network
    gradient, first, second = (np.zeros_like(network.flat) for _ in range(3))
    for step in range(1, settings.steps + 1):
        plane_m, power_mw = windows.draw(rng, settings.batch)
        inputs = standardised(power_mw, trained.mean, trained.std)
        network.loss_gradient(inputs, (plane_m / LENGTH_M).astype(np.float32), gradient)
        first += (1.0 - _BETA_1) * (gradient - first)
        second += (1.0 - _BETA_2) * (gradient * gradient - second)
        corrected = first / (1.0 - _BETA_1**step)
        spread = np.sqrt(second / (1.0 - _BETA_2**step)) + _EPSILON
        network.flat -= np.float32(_rate(step, settings)) * corrected / spread


def _rate(step: int, settings: Training) -> float:
    rise = min(1.0, step / (0.05 * settings.steps))
    return settings.learning_rate * rise * 0.5 * (1.0 + float(np.cos(np.pi * step / settings.steps)))
