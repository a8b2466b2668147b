from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from transformer.bands import FilterBank, edges_hz, weights

if TYPE_CHECKING:
    from tests.unit.transformer.conftest import Contracts

LAYOUTS = [("linear", 512, 128), ("signed_mel", 512, 128), ("linear", 64, 7), ("signed_mel", 256, 300)]


@pytest.mark.parametrize(("scale", "fft_size", "bands"), LAYOUTS)
def test_no_band_is_empty_and_no_frequency_is_lost(scale: str, fft_size: int, bands: int, contracts: Contracts) -> None:
    """Every band sees at least one bin, and every bin between the outer peaks is seen, negative ones included."""
    frames = 1 + (4480 - fft_size) // 128
    layout = contracts.make(
        features__band_scale=scale, features__fft_size=fft_size, features__bands=bands, features__frames=frames
    ).features
    dense = weights(layout)
    assert dense.shape == (fft_size, bands)
    assert dense.any(axis=0).all()
    edges = edges_hz(layout.band_scale, bands, 48000.0)
    frequency = np.fft.fftshift(np.fft.fftfreq(fft_size, 1 / 48000.0))
    inner = (frequency > edges[1]) & (frequency < edges[-2])
    assert dense[inner].any(axis=1).all()


@pytest.mark.parametrize(("scale", "fft_size", "bands"), LAYOUTS)
def test_blocks_are_the_dense_product(scale: str, fft_size: int, bands: int, contracts: Contracts) -> None:
    """Leaving out the zeros changes nothing: the block product equals the dense one."""
    frames = 1 + (4480 - fft_size) // 128
    layout = contracts.make(
        features__band_scale=scale, features__fft_size=fft_size, features__bands=bands, features__frames=frames
    ).features
    powers = np.random.default_rng(0).exponential(size=(5, fft_size))
    np.testing.assert_allclose(FilterBank(layout)(powers), powers @ weights(layout), rtol=1e-13)


def test_linear_triangles_against_interpolation(contracts: Contracts) -> None:
    """A linear band is the piecewise linear function through (foot, 0), (peak, 1), (foot, 0)."""
    layout = contracts.make().features
    frequency = np.fft.fftshift(np.fft.fftfreq(512, 1 / 48000.0))
    edges = np.linspace(-24000.0, 24000.0, 130)
    expected = [np.interp(frequency, edges[b : b + 3], [0.0, 1.0, 0.0]) for b in range(128)]
    np.testing.assert_allclose(weights(layout), np.transpose(expected), atol=1e-12)


def test_signed_mel_edges_are_odd_and_known() -> None:
    """The edges mirror around zero; with 1000 Hz at 999.9855 mel, the last but one of eleven lies at 8/10 of that."""
    half_hz = 1000.0
    edges = edges_hz("signed_mel", 9, 2 * half_hz)
    np.testing.assert_allclose(edges, -edges[::-1], atol=1e-9)
    assert edges[[0, -1]] == pytest.approx([-half_hz, half_hz])
    assert edges[-2] == pytest.approx(700.0 * (10.0 ** (999.9855 * 8 / 10 / 2595.0) - 1.0), rel=1e-6)
