"""The exact posterior mean from received powers, and the Cramér-Rao bound: the yardsticks of every model.

What belongs here: the posterior of the simulator's own radio model, on a grid. What does not: learned things.

Prior: the position uniform over the simulator's box, EIRP ~ N(40 dBm, 3 dB), both as simulated.

Likelihood of the in-band powers M_i (mean over the frames, in mW), independent over receivers given the position p
and the EIRP P:

    ℓ_i(m) = ∫ f_X(s − m) · f(M_i | s) ds,      m = P − PL(d_i(p))                                          (all in dBm)

- f_X, the density in dB of shadowing plus fading: the Gaussian of the shadowing convolved with the density of
  10·log10 of the Rician power u, u = |A|² + |g|² + 2|A||g|·s·cos ψ. Here |A|² = κ/(κ+1), |g|² is exponential with mean
  1/(κ+1), ψ is uniform, and s is what the weighted time average of the capture leaves of the beat between two
  Doppler shifts. All four are integrated by midpoint rules.
- f(M | s) is Gaussian: with signal power S and in-band noise power N, the average of a spectrogram over bandwidth B and
  effective time T has mean S + N and variance (2SN + N²)/(BT) (Rice 1944; Kay, Statistical Signal Processing II).

The levels are kept on a grid of 0.1 dB, on which f(M | s) is integrated exactly over each cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from scipy.special import ndtr

from reference.features import LAYOUT, Layout
from reference.pooling import INBAND_HZ, selection
from reference.simulate import FRAME, RADIO, Radio

if TYPE_CHECKING:
    from reference.arrays import F32, F64, Ints
    from reference.geometry import Frame

LEVEL_STEP_DB = 0.1
_LOWEST_DBM, _LEVELS = -180.0, 2_048
_EIRP_STEP = 15
_EIRP_REACH_STD = 4.0
_LIKELIHOOD_FLOOR = 1e-12
_NODES = 96
_TINY = 1e-290


@dataclass(frozen=True)
class Posterior:
    """The posterior over a grid of positions, for one radio model and feature layout.

    Args:
        step_m: Width of the grid's cells.
    """

    radio: Radio = RADIO
    layout: Layout = LAYOUT
    frame: Frame = FRAME
    step_m: float = 3_000.0

    def mean_m(self, power_mw: F32) -> F64:
        """Posterior means [K,2] (east, north, metres of the local frame), the estimator of least RMS error.

        Args:
            power_mw: In-band powers [K,R] in mW: the mean over the frames of the sum of the bands below 8 kHz.
        """
        tables = np.log(self._likelihoods(power_mw) + _LIKELIHOOD_FLOOR).astype(np.float32)
        return np.stack([self._weights(table) @ self._cells for table in tables])

    def _weights(self, table: F32) -> F64:
        """Posterior probabilities [P] of the cells; `table` [R, levels] holds ln ℓ_i over the level m."""
        shifts, prior = self._eirp
        joint = np.zeros((len(self._cells), len(shifts)), dtype=np.float32) + prior
        for receiver, loss in enumerate(self._loss_index.T):
            by_loss = np.lib.stride_tricks.sliding_window_view(table[receiver], len(shifts) * _EIRP_STEP)
            joint += np.take(by_loss[:, ::_EIRP_STEP], loss + shifts[0], axis=0)
        weights = np.exp(joint - joint.max(), dtype=np.float32).sum(axis=1, dtype=np.float64)
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def _likelihoods(self, power_mw: F32) -> F64:
        """ℓ_i(m) [K,R,levels]: the cells' f(M | s), correlated with f_X."""
        evidence = scipy.fft.rfft(self._level_evidence(power_mw), 2 * _LEVELS, axis=-1)
        spread = scipy.fft.rfft(self._spread, 2 * _LEVELS)
        likelihood = scipy.fft.irfft(evidence * np.conj(spread), 2 * _LEVELS, axis=-1)
        return np.maximum(np.roll(likelihood, _LEVELS // 2, axis=-1)[..., :_LEVELS], 0.0)

    def _level_evidence(self, power_mw: F32) -> F64:
        """∫ f(M | s) ds over every level cell [K,R,levels], scaled to sum to one; ds = 10/ln 10 · dS/S."""
        edges_dbm = _LOWEST_DBM + (np.arange(_LEVELS + 1) - 0.5) * LEVEL_STEP_DB
        signal_mw = 10.0 ** (edges_dbm / 10.0)
        noise_mw, product = self.noise_mw, self.time_bandwidth
        std_mw = np.sqrt((2.0 * signal_mw + noise_mw) * noise_mw / product)
        below = ndtr((signal_mw + noise_mw - power_mw[..., None].astype(np.float64)) / std_mw)
        evidence = np.diff(below, axis=-1) / np.sqrt(signal_mw[1:] * signal_mw[:-1]) + _TINY
        return np.asarray(evidence / evidence.sum(axis=-1, keepdims=True), dtype=np.float64)

    @cached_property
    def noise_mw(self) -> float:
        """Expected in-band noise power."""
        share = float((self.layout.bank @ selection(self.layout))[:, 0].sum()) / self.layout.fft_size
        return share * float(10.0 ** (self.radio.noise_dbm / 10.0))

    @cached_property
    def time_bandwidth(self) -> float:
        """B·T of the in-band power estimate: T = (Σw)²/Σw² of the frames' summed squared windows."""
        weight = self._time_weight
        seconds = float(weight.sum() ** 2 / np.sum(weight**2)) / self.radio.sample_rate_hz
        return 2.0 * INBAND_HZ * seconds

    @cached_property
    def _time_weight(self) -> F64:
        weight = np.zeros(self.layout.samples)
        squared = np.square(self.layout.window, dtype=np.float64)
        for start in range(0, self.layout.frames * self.layout.hop_size, self.layout.hop_size):
            weight[start : start + self.layout.fft_size] += squared
        return np.asarray(weight / weight.sum(), dtype=np.float64)

    @cached_property
    def _cells(self) -> F64:
        return self.frame.box(self.radio.margin_m).cell_centres(self.step_m)

    @cached_property
    def _loss_index(self) -> Ints:
        """Index [P,R] of the level that an EIRP of 0 dBm would have at the receiver."""
        distance_m = np.linalg.norm(self._cells[:, None, :] - self.frame.sites_m(), axis=-1)
        level = (-self.radio.path_loss_db(distance_m) - _LOWEST_DBM) / LEVEL_STEP_DB
        return np.asarray(np.rint(level), dtype=np.intp)

    @cached_property
    def _eirp(self) -> tuple[Ints, F32]:
        """Nodes of the EIRP every 1.5 dB over ±4 σ, in level steps, and the logarithm of their prior weights."""
        radio = self.radio
        reach = int(_EIRP_REACH_STD * radio.eirp_std_db / (_EIRP_STEP * LEVEL_STEP_DB))
        shifts = np.arange(-reach, reach + 1) * _EIRP_STEP + round(radio.eirp_mean_dbm / LEVEL_STEP_DB)
        deviation = (shifts * LEVEL_STEP_DB - radio.eirp_mean_dbm) / radio.eirp_std_db
        return shifts.astype(np.intp), (-0.5 * deviation**2).astype(np.float32)

    @cached_property
    def _spread(self) -> F64:
        """f_X on the level grid [levels], zero dB at index levels/2."""
        axis_db = (np.arange(_LEVELS) - _LEVELS // 2) * LEVEL_STEP_DB
        shadowing = np.exp(-0.5 * (axis_db / self.radio.shadowing_std_db) ** 2)
        edges_db = np.append(axis_db, axis_db[-1] + LEVEL_STEP_DB) - LEVEL_STEP_DB / 2.0
        fading, _ = np.histogram(self.fading_db(), bins=edges_db)
        both = np.convolve(shadowing / shadowing.sum(), fading / fading.sum(), mode="full")
        return np.asarray(both[_LEVELS // 2 : _LEVELS // 2 + _LEVELS], dtype=np.float64)

    @cached_property
    def spread_std_db(self) -> float:
        """Standard deviation of shadowing and fading together, for the Cramér-Rao bound."""
        return float(np.hypot(self.radio.shadowing_std_db, np.std(self.fading_db())))

    def fading_db(self) -> F64:
        """Equally likely values of the window-averaged Rician power in dB, from midpoint rules over its four inputs."""
        kappa = 10.0 ** (self.radio.rician_k_db / 10.0)
        middle = (np.arange(_NODES) + 0.5) / _NODES
        diffuse = (-np.log1p(-middle) / (kappa + 1.0))[:, None, None]
        beat = self._beat_factor(middle)[None, :, None] * np.cos(np.pi * middle)[None, None, :]
        power = kappa / (kappa + 1.0) + diffuse + 2.0 * np.sqrt(kappa / (kappa + 1.0) * diffuse) * beat
        return np.asarray(10.0 * np.log10(power).ravel(), dtype=np.float64)

    def _beat_factor(self, middle: F64) -> F64:
        """Quantiles [nodes] of |Σ w(t) e^{j2πΔt}| over the difference Δ of two Doppler shifts."""
        shift_hz = self.radio.doppler_max_hz * np.cos(np.pi * middle)
        difference_hz = np.sort(np.abs(shift_hz[:, None] - shift_hz[None, :]).ravel())[_NODES // 2 :: _NODES]
        time_s = np.arange(self.layout.samples) / self.radio.sample_rate_hz
        return np.abs(np.exp(2j * np.pi * difference_hz[:, None] * time_s) @ self._time_weight)


def crb_drms_m(plane_m: F64, std_db: float, radio: Radio = RADIO, frame: Frame = FRAME) -> F64:
    """Cramér-Rao bound on the RMS error [K] in metres of an unbiased estimate from powers with `std_db` of spread.

    J = (b²/σ²)·[Σ g gᵀ − (Σg)(Σg)ᵀ/(N + σ²/σ_P²)] with g_i = (p − r_i)/d_i² and b = 10n/ln 10: the matrix inversion
    lemma removes the unknown EIRP (Patwari et al., IEEE Trans. Signal Process. 51(8), 2003, extended by a prior).
    The prior box is not in it, so the posterior mean may beat it near the edges.
    """
    offset = plane_m[:, None, :] - frame.sites_m()
    gradient = offset / np.sum(offset**2, axis=-1, keepdims=True)
    slope = 10.0 * radio.path_loss_exponent / np.log(10.0)
    total = gradient.sum(axis=1)
    count = gradient.shape[1] + (std_db / radio.eirp_std_db) ** 2
    information = np.einsum("kri,krj->kij", gradient, gradient) - np.einsum("ki,kj->kij", total, total) / count
    bound = np.linalg.inv(information * (slope / std_db) ** 2)
    return np.asarray(np.sqrt(np.trace(bound, axis1=1, axis2=2)), dtype=np.float64)
