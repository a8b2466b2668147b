from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import ShortTimeFFT, get_window

from reference.features import LAYOUT, Layout, band_powers_mw, log_mel, spectra
from reference.simulate import captures

RATE_HZ, SIZE, HOP = LAYOUT.sample_rate_hz, LAYOUT.fft_size, LAYOUT.hop_size


def tone(frequency_hz: float, samples: int = LAYOUT.samples) -> np.ndarray[tuple[int], np.dtype[np.complex64]]:
    """A full-scale complex tone."""
    return np.exp(2j * np.pi * frequency_hz * np.arange(samples) / RATE_HZ).astype(np.complex64)


def test_frames_of_a_capture() -> None:
    """4480 samples give 32 frames of 512 every 128, and nothing is padded."""
    assert LAYOUT.frames == 32
    assert band_powers_mw(tone(0.0)).shape == (32, 128)


@given(level=st.floats(-4.0, 0.0), frequency_hz=st.floats(-20e3, 20e3))
@settings(max_examples=25, deadline=None)
def test_bands_sum_to_the_mean_power(level: float, frequency_hz: float) -> None:
    """Parseval: window scale and triangles pass a tone's power on, whatever its frequency's sign."""
    amplitude = np.float32(10.0**level)
    power_mw = band_powers_mw(amplitude * tone(frequency_hz)).sum(axis=-1)
    assert power_mw == pytest.approx(np.full(32, amplitude**2 * 1e-5), rel=2e-3)


def test_tone_lands_in_its_band_on_its_side() -> None:
    """A tone at a band's peak lights that band; its mirror image lights the mirrored band."""
    for band in (5, 40, 64, 120):
        frequency_hz = float(LAYOUT.band_centre_hz[band])
        assert int(band_powers_mw(tone(frequency_hz)).mean(axis=0).argmax()) == band
        assert int(band_powers_mw(tone(-frequency_hz)).mean(axis=0).argmax()) == 127 - band


def test_agrees_with_scipy_in_double_precision() -> None:
    """Spectra equal those of `scipy.signal.ShortTimeFFT` in FP64, within FP32's rounding of the strongest bin."""
    iq = captures(2, 1).complex_iq()[0]
    window = get_window("hann", SIZE)
    transform = ShortTimeFFT(window, HOP, RATE_HZ, fft_mode="twosided", phase_shift=None)
    first = SIZE // 2 // HOP
    truth = transform.stft(iq.astype(np.complex128), p0=first, p1=first + LAYOUT.frames, k_offset=0)
    power = np.fft.fftshift(np.abs(truth) ** 2, axes=-2) * 1e-5 / (SIZE * np.sum(window**2))
    expected = np.swapaxes(power, -1, -2)
    assert np.abs(np.abs(spectra(iq)) ** 2 - expected).max() < 1e-5 * expected.max()


def test_no_filter_is_empty_and_inner_ones_sum_to_one() -> None:
    """Every band sees bins, negative frequencies included, and adjacent triangles add up to one."""
    assert LAYOUT.bank.sum(axis=0).min() > 0.0
    inner = LAYOUT.bank[8:-8].sum(axis=1)
    assert inner == pytest.approx(np.ones_like(inner))


def test_narrow_bands_are_widened_to_a_bin() -> None:
    """With more bands than bins no filter falls between two bins."""
    assert Layout(bands=1_000).bank.sum(axis=0).min() > 0.0


def test_log_mel_is_affine_and_floored() -> None:
    """Silence reads as the floor, and the fixed mean and std are undone exactly."""
    silence = np.zeros((1, LAYOUT.samples), dtype=np.complex64)
    value = log_mel(silence, -32.0, 2.5)
    assert value == pytest.approx(np.full_like(value, (np.log(1e-15) + 32.0) / 2.5), rel=1e-6)


def test_features_of_a_case_do_not_depend_on_its_batch() -> None:
    """A batch's features are those of its cases alone: nothing is normalised by content."""
    iq = captures(2, 3).complex_iq()
    assert np.allclose(log_mel(iq, -32.0, 2.5)[1], log_mel(iq[1], -32.0, 2.5), atol=1e-5)
