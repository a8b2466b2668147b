from __future__ import annotations

import numpy as np
import pytest

from reference.features import LAYOUT, band_powers_mw
from reference.pooling import Pool, pool, selection
from reference.simulate import RADIO, noise, unit_signals


def test_selection_takes_both_sides_of_zero() -> None:
    """In-band and out-of-band sums treat negative frequencies as positive ones, and no band is in both."""
    chosen = selection()
    assert np.array_equal(chosen, chosen[::-1])
    assert chosen.sum(axis=1).max() == 1.0
    assert chosen.sum(axis=0).tolist() == [42.0, 74.0]


def test_three_means_give_the_power_of_the_sum() -> None:
    """G·|S|² + |N|² + 2√G·Re(S·N*) equals the band powers of the sum itself, for strong and weak signals."""
    rng = np.random.default_rng([3, 0])
    windows = pool(3, 1)
    signal, disturbance = unit_signals(rng, 32, 7, RADIO), noise(rng, 32, 7, RADIO)
    for amplitude in (np.float32(1.0), np.float32(3e-4)):
        direct = band_powers_mw(amplitude * signal + disturbance).mean(axis=-2) @ selection()
        pooled = amplitude**2 * windows.signal_mw + amplitude * windows.cross_mw + windows.noise_mw
        assert pooled[:, 0] == pytest.approx(direct.reshape(-1, 2)[:, 0], rel=1e-3)


def test_pool_has_at_least_as_many_windows_as_asked() -> None:
    """Whole blocks are drawn, never fewer windows than asked for."""
    assert len(pool(1, 225).signal_mw) == 448


def test_drawn_powers_are_positive_and_reproducible() -> None:
    """Cases from a pool depend on the generator alone, and every power is above zero."""
    windows: Pool = pool(1, 200)
    plane_m, power_mw = windows.draw(np.random.default_rng(1), 500)
    again_m, again_mw = windows.draw(np.random.default_rng(1), 500)
    assert np.array_equal(plane_m, again_m)
    assert np.array_equal(power_mw, again_mw)
    assert power_mw.shape == (500, 7, 2)
    assert power_mw[..., 0].min() > 0.0


def test_noise_terms_have_the_bands_share_of_the_noise() -> None:
    """White noise spreads over the bands in proportion to their weights."""
    expected = 10.0 ** (RADIO.noise_dbm / 10.0) * (LAYOUT.bank @ selection()).sum(axis=0) / LAYOUT.fft_size
    assert pool(1, 400).noise_mw.mean(axis=0) == pytest.approx(expected, rel=0.01)
