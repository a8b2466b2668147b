"""Log band powers of complex IQ, as the model's contract defines them: an implementation independent of the service's.

What belongs here: window, FFT, filterbank, logarithm, and the contract's description of them. What does not: the
radio model, the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import get_window

if TYPE_CHECKING:
    from reference.arrays import C64, F32, F64


@dataclass(frozen=True)
class Layout:
    """How samples become features. Frames start at multiples of the hop, nothing is padded.

    The floor is added to every band's power in mW, so that the logarithm of silence is finite and means a level.
    """

    sample_rate_hz: int = 48_000
    samples: int = 4_480
    full_scale_dbm: float = -50.0
    fft_size: int = 512
    hop_size: int = 128
    bands: int = 128
    floor_dbm: float = -150.0

    @property
    def frames(self) -> int:
        """Frames of one capture."""
        return 1 + (self.samples - self.fft_size) // self.hop_size

    @property
    def floor_mw(self) -> float:
        """The floor as power."""
        return float(10.0 ** (self.floor_dbm / 10.0))

    @cached_property
    def window(self) -> F32:
        """Periodic Hann window [fft_size], scaled so that the bins' powers sum to the mean power (Parseval), √mW."""
        hann = get_window("hann", self.fft_size, fftbins=True)
        scale = np.sqrt(10.0 ** (self.full_scale_dbm / 10.0) / (self.fft_size * np.sum(hann**2)))
        return np.asarray(hann * scale, dtype=np.float32)

    @cached_property
    def band_centre_hz(self) -> F64:
        """The peak frequency of every band."""
        return self._edges_hz[1:-1]

    @cached_property
    def bank(self) -> F64:
        """Triangular weights [fft_size, bands] over FFT bins in ascending frequency, negative frequencies first.

        Edges e_0..e_{bands+1} are equispaced over the sampled bandwidth; band b rises from e_b to e_{b+1} and falls to
        e_{b+2}; no half-width is narrower than one bin.
        """
        bin_hz = self.sample_rate_hz / self.fft_size
        frequency_hz = (np.arange(self.fft_size)[:, None] - self.fft_size // 2) * bin_hz
        left, peak, right = self._edges_hz[:-2], self._edges_hz[1:-1], self._edges_hz[2:]
        rise = 1.0 + (frequency_hz - peak) / np.maximum(peak - left, bin_hz)
        fall = 1.0 + (peak - frequency_hz) / np.maximum(right - peak, bin_hz)
        return np.maximum(0.0, np.minimum(rise, fall))

    @cached_property
    def _edges_hz(self) -> F64:
        half = self.sample_rate_hz / 2.0
        return np.linspace(-half, half, self.bands + 2)


LAYOUT = Layout()


def spectra(iq: C64, layout: Layout = LAYOUT) -> C64:
    """Windowed spectra [..., T, fft_size] in √mW of samples [..., N]; bins ascend from −fs/2."""
    frames = sliding_window_view(iq, layout.fft_size, axis=-1)[..., :: layout.hop_size, :][..., : layout.frames, :]
    transformed: C64 = scipy.fft.fft(frames * layout.window, axis=-1, workers=1, overwrite_x=True)
    return np.asarray(scipy.fft.fftshift(transformed, axes=-1), dtype=np.complex64)


def band_powers_mw(iq: C64, layout: Layout = LAYOUT) -> F32:
    """Band powers [..., T, bands] in mW of samples [..., N] relative to full scale."""
    bins = spectra(iq, layout)
    power: F32 = np.square(bins.real) + np.square(bins.imag)
    product: F32 = power.reshape(-1, layout.fft_size) @ layout.bank.astype(np.float32)
    return product.reshape(*power.shape[:-1], layout.bands)


def log_mel(iq: C64, mean: float, std: float, layout: Layout = LAYOUT) -> F32:
    """The model's input FP32 [..., T, bands]: (ln(band power + floor) − mean) / std, with fixed mean and std."""
    logarithm: F32 = np.log(band_powers_mw(iq, layout) + np.float32(layout.floor_mw))
    logarithm -= np.float32(mean)
    logarithm /= np.float32(std)
    return logarithm
