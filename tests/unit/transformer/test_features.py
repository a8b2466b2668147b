from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from transformer.bands import weights
from transformer.features import LogMel

if TYPE_CHECKING:
    from tests.unit.transformer.conftest import Contracts
    from transformer.contract import Contract

Array = np.ndarray[Any, np.dtype[Any]]


def narrow_fm(noise_dbfs: float, receivers: int = 7, items: int = 1, count: int = 4480) -> Array:
    """A strong voice-like FM signal at 3.2 kHz on receiver noise that is `noise_dbfs` strong over the whole band."""
    rng = np.random.default_rng(3)
    t = np.arange(count) / 48000.0
    signal = np.exp(1j * (2 * np.pi * 3210.0 * t + 2.0 * np.sin(2 * np.pi * 900.0 * t)))
    level = 10.0 ** (-np.arange(items * receivers).reshape(items, receivers, 1) / 20.0)
    noise = rng.normal(size=(items, receivers, count, 2)).astype(np.float64).view(np.complex128)[..., 0] / np.sqrt(2)
    return (0.5 * level * signal + noise * 10.0 ** (noise_dbfs / 20.0)).astype(np.complex64)


def foreign_band_powers_mw(iq: Array, contract: Contract) -> Array:
    """The contract's band powers by scipy's ShortTimeFFT in double precision, [B, R, T, F]."""
    layout = contract.features
    window = hann(layout.fft_size, sym=False)
    window /= np.sqrt(layout.fft_size * np.sum(window**2))
    transform = ShortTimeFFT(window, layout.hop_size, 48000.0, fft_mode="centered", phase_shift=None)
    first = layout.fft_size // 2 // layout.hop_size  # ShortTimeFFT centres its frames; this one starts at sample 0
    spectra = transform.stft(iq.astype(np.complex128), p0=first, p1=first + layout.frames)
    powers = np.swapaxes(np.abs(spectra) ** 2, -1, -2)
    return np.asarray(10.0 ** (contract.full_scale_dbm / 10.0) * powers @ weights(layout))


@pytest.mark.parametrize("scale", ["linear", "signed_mel"])
@pytest.mark.parametrize("noise_dbfs", [-40.0, -60.0, -80.0, -120.0])
def test_band_powers_against_scipy(scale: str, noise_dbfs: float, contracts: Contracts) -> None:
    """Weak bands beside a strong signal keep their power to 1e-4."""
    contract = contracts.make(features__band_scale=scale)
    iq = narrow_fm(noise_dbfs)
    expected = foreign_band_powers_mw(iq, contract)
    error = np.abs(LogMel(contract).band_powers_mw(iq) - expected)
    assert (error <= 1e-4 * expected + 1e-12 * expected.max(axis=(-1, -2), keepdims=True)).all()


def test_mutant_in_single_precision_loses_the_weak_bands(contract: Contract) -> None:
    """An FP32 FFT breaks the bound of the test above at 60 dB: double precision is needed, not a luxury."""
    iq = narrow_fm(-60.0)
    expected = foreign_band_powers_mw(iq, contract)
    window = hann(512, sym=False)
    window /= np.sqrt(512 * np.sum(window**2))
    frames = np.lib.stride_tricks.sliding_window_view(iq, 512, -1)[..., ::128, :] * window.astype(np.float32)
    spectra = np.fft.fftshift(scipy.fft.fft(frames), axes=-1)
    assert spectra.dtype == np.complex64
    mutant = 1e-5 * np.abs(spectra.astype(np.complex128)) ** 2 @ weights(contract.features)
    assert (np.abs(mutant - expected) > 1e-4 * expected + 1e-12 * expected.max(axis=(-1, -2), keepdims=True)).any()


def test_mutant_that_drops_negative_frequencies_loses_a_signal(contract: Contract) -> None:
    """A one-sided FFT would see nothing of a carrier below the centre frequency; all of it is in its band here."""
    t = np.arange(4480) / 48000.0
    iq = np.tile(np.exp(-2j * np.pi * 9000.0 * t).astype(np.complex64), (1, 7, 1))
    powers = LogMel(contract).band_powers_mw(iq)[0, 0].mean(axis=0)
    one_sided = np.where(np.arange(128) < 64, 0.0, powers)
    assert powers.argmax() == 39  # peaks lie at −24 kHz + (b + 1)·48/129 kHz; −9 kHz is nearest to b = 39
    assert one_sided.sum() < 1e-6 * powers.sum()


@settings(max_examples=20, deadline=None)
@given(gain_db=st.floats(-60.0, 40.0))
def test_power_scales_with_amplitude_squared(gain_db: float, contract: Contract) -> None:
    """A gain of x dB in amplitude is x dB in every band, and so is a full scale declared x dB higher."""
    extract, iq = LogMel(contract), narrow_fm(-40.0)
    powers = extract.band_powers_mw(iq)
    gain = 10.0 ** (gain_db / 10.0)
    louder = extract.band_powers_mw((iq * np.sqrt(gain)).astype(np.complex64))
    np.testing.assert_allclose(louder, gain * powers, rtol=1e-3, atol=1e-9 * gain * powers.max())
    np.testing.assert_allclose(extract.band_powers_mw(iq, -50.0 + gain_db), gain * powers, rtol=1e-12)


@settings(max_examples=10, deadline=None)
@given(hops=st.integers(1, 20))
def test_a_shift_by_hops_shifts_the_frames(hops: int, contract: Contract) -> None:
    """Samples that come k hops later give the same frames k places later."""
    long = narrow_fm(-40.0, count=4480 + 20 * 128)
    extract = LogMel(contract)
    early, late = extract(long[..., :4480]), extract(long[..., hops * 128 : hops * 128 + 4480])
    np.testing.assert_array_equal(early[:, :, hops:], late[:, :, : 32 - hops])


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 8))
def test_a_batch_is_its_items(cut: int, contract: Contract) -> None:
    """Items do not influence one another, however a batch is cut."""
    iq, extract = narrow_fm(-40.0, items=9), LogMel(contract)
    parts = np.concatenate([extract(iq[:cut]), extract(iq[cut:])])
    np.testing.assert_allclose(extract(iq), parts, rtol=1e-6, atol=1e-6)


def test_parseval(contract: Contract) -> None:
    """White noise of mean power P has P spread evenly: a linear band has P times its weight's share of the bins."""
    iq = narrow_fm(0.0, items=4) - narrow_fm(-400.0, items=4)  # the signals cancel, the noise stays
    mean = LogMel(contract).band_powers_mw(iq.astype(np.complex64)).mean(axis=(0, 1, 2))
    share = weights(contract.features).sum(axis=0) / 512
    assert mean.sum() == pytest.approx(10.0**-5.0 * share.sum(), rel=0.02)
    np.testing.assert_allclose(mean, 10.0**-5.0 * share, rtol=0.25)


def test_logarithm_floor_and_normalisation(contract: Contract) -> None:
    """The tensor is (ln(P + floor) − mean) / std in FP32, with the floor alone for silence."""
    extract = LogMel(contract)
    iq = narrow_fm(-60.0)
    expected = (np.log(foreign_band_powers_mw(iq, contract) + 1e-14) + 12.3) / 4.5
    features = extract(iq)
    assert features.dtype == np.float32
    assert features.shape == (1, 7, 32, 128)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(extract(np.zeros_like(iq)), (np.log(1e-14) + 12.3) / 4.5, rtol=1e-6)


def test_threads_do_not_disturb_one_another(contract: Contract) -> None:
    """One extractor called from several threads at once gives each its own features."""
    extract = LogMel(contract)
    captures = [narrow_fm(-40.0 - i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for features, iq in zip(pool.map(extract, captures), captures, strict=True):
            np.testing.assert_array_equal(features, extract(iq))
