from __future__ import annotations

import numpy as np
import pytest

from reference.network import gaussian
from reference.pooling import pool
from reference.train import SMALLEST_MW, Training, log_powers, train

SHORT = Training(seed=3, windows=1_000, steps=150, batch=128, width=32)


def test_same_seed_gives_the_same_weights() -> None:
    """Training is a function of its settings."""
    assert np.array_equal(train(SHORT).network.flat, train(SHORT).network.flat)


def test_short_training_already_beats_the_centre_of_the_region() -> None:
    """150 steps of Adam locate new cases far better than always answering the centre does."""
    plane_m, power_mw = pool(4, 1_000).draw(np.random.default_rng(4), 4_000)
    mean_m, _ = gaussian(train(SHORT).outputs(power_mw))
    blind = np.sqrt(np.mean(np.sum((plane_m - plane_m.mean(axis=0)) ** 2, axis=1)))
    assert np.sqrt(np.mean(np.sum((plane_m - mean_m) ** 2, axis=1))) < 0.6 * blind


def test_log_powers_are_finite_for_silence() -> None:
    """A receiver without any power reads as the floor instead of minus infinity."""
    values = log_powers(np.zeros((1, 7, 2), dtype=np.float32))
    assert values == pytest.approx(np.full((1, 14), np.log(SMALLEST_MW)))
