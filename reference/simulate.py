"""Captures of one narrow-band FM transmitter by several unsynchronised receivers, drawn from a stated radio model.

What belongs here: the physics, as pure functions of a random generator. What does not: features, training, files.

For receiver i at distance d_i the complex baseband at unit full scale is

    x_i(t) = √G_i · s_i(t) + n_i(t),      10·log10 G_i = EIRP − PL(d_i) + X_i − full_scale      (X_i: shadowing, dB)
    s_i(t) = e^{j2π f_i t} · m(t) · (√(κ/(κ+1)) e^{j(2π ν_i t + φ_i)} + √(1/(κ+1)) g_i e^{j2π ν'_i t})

m is the FM signal with |m| = 1, f_i the sum of the transmitter's and the receiver's frequency errors, κ the Rician
factor, g_i a unit complex Gaussian, and ν, ν' are Doppler shifts ν_max·cos(angle of arrival). Path loss is the
log-distance model PL = PL(1 km) + 10·n·log10(d / 1 km) (Rappaport, Wireless Communications, 2nd ed., §4.9), which
is defined from its reference distance on: nearer transmitters are treated as if 1 km away. The channel is flat: a
delay spread of microseconds is far below the inverse of an 11 kHz bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.geometry import RECEIVERS, Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.arrays import C64, F32, F64

BLOCK_CASES = 32
"""Cases drawn from one generator. Case k of a seed is the same however many are asked for."""

THERMAL_NOISE_DBM_PER_HZ = -174.0
"""k·T at 290 K (ITU-R P.372)."""

_ROTATION_SAMPLES = 64
_TONES = 3


@dataclass(frozen=True, slots=True)
class Radio:
    """The radio model's constants."""

    eirp_mean_dbm: float = 40.0
    eirp_std_db: float = 3.0
    path_loss_1km_db: float = 75.7
    path_loss_exponent: float = 3.0
    shadowing_std_db: float = 4.0
    rician_k_db: float = 10.0
    doppler_max_hz: float = 2.0
    deviation_max_hz: float = 2_500.0
    audio_hz: tuple[float, float] = (300.0, 3_000.0)
    transmitter_offset_hz: float = 1_500.0
    receiver_offset_hz: float = 100.0
    noise_figure_db: float = 6.0
    sample_rate_hz: int = 48_000
    samples: int = 4_480
    full_scale_dbm: float = -50.0
    margin_m: float = 30_000.0

    def path_loss_db(self, distance_m: F64) -> F64:
        """Path loss at these distances; constant below the reference distance of 1 km."""
        decades: F64 = np.log10(np.maximum(distance_m, 1_000.0) / 1_000.0)
        return self.path_loss_1km_db + 10.0 * self.path_loss_exponent * decades

    @property
    def noise_dbm(self) -> float:
        """Receiver noise over the whole sampled bandwidth."""
        return THERMAL_NOISE_DBM_PER_HZ + 10.0 * float(np.log10(self.sample_rate_hz)) + self.noise_figure_db

    @property
    def full_scale_mw(self) -> float:
        """The power of a sample of magnitude one."""
        return float(10.0 ** (self.full_scale_dbm / 10.0))


RADIO = Radio()
FRAME = Frame(RECEIVERS)


@dataclass(frozen=True, slots=True, eq=False)
class Captures:
    """K transmissions as received, with the truth.

    Attributes:
        iq: [K,R,N,2] FP32, I and Q relative to full scale. Strong signals exceed one: there is no converter to clip.
        position_deg: [K,2] FP64, the transmitter's latitude and longitude.
    """

    iq: F32
    position_deg: F64

    def __len__(self) -> int:
        """The number of cases."""
        return len(self.position_deg)

    def complex_iq(self) -> C64:
        """The samples as complex64 [K,R,N], without a copy."""
        return self.iq.view(np.complex64)[..., 0]

    def first(self, cases: int) -> Captures:
        """The first `cases` of them."""
        return Captures(self.iq[:cases], self.position_deg[:cases])


def blocks(seed: int, cases: int, *, radio: Radio = RADIO, frame: Frame = FRAME) -> Iterator[Captures]:
    """Yield `cases` captures in blocks of `BLOCK_CASES`, so that memory holds one block however many are drawn."""
    for index, start in enumerate(range(0, cases, BLOCK_CASES)):
        rng = np.random.default_rng([seed, index])
        yield _block(rng, radio, frame).first(cases - start)


def captures(seed: int, cases: int, *, radio: Radio = RADIO, frame: Frame = FRAME) -> Captures:
    """All cases of `blocks` at once: 251 kB a case."""
    parts = list(blocks(seed, cases, radio=radio, frame=frame))
    return Captures(np.concatenate([part.iq for part in parts]), np.concatenate([part.position_deg for part in parts]))


def received_dbm(rng: np.random.Generator, plane_m: F64, radio: Radio, frame: Frame) -> F64:
    """Mean received powers [K,R] before fading, for transmitters at `plane_m` [K,2]: EIRP and shadowing are drawn."""
    distance_m = np.linalg.norm(plane_m[:, None, :] - frame.sites_m(), axis=-1)
    eirp_dbm = rng.normal(radio.eirp_mean_dbm, radio.eirp_std_db, (len(plane_m), 1))
    shadowing_db = rng.normal(0.0, radio.shadowing_std_db, distance_m.shape)
    return np.asarray(eirp_dbm - radio.path_loss_db(distance_m) + shadowing_db, dtype=np.float64)


def unit_signals(rng: np.random.Generator, cases: int, receivers: int, radio: Radio) -> C64:
    """Faded signals s_i [K,R,N] of mean power one, noise-free."""
    kappa = 10.0 ** (radio.rician_k_db / 10.0)
    shape = (cases, receivers)
    direct = np.sqrt(kappa / (kappa + 1.0)) * np.exp(2j * np.pi * rng.random(shape))
    diffuse = np.sqrt(0.5 / (kappa + 1.0)) * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    offset_hz = rng.uniform(-1.0, 1.0, (cases, 1)) * radio.transmitter_offset_hz
    offset_hz = offset_hz + rng.uniform(-1.0, 1.0, shape) * radio.receiver_offset_hz
    channel = _rotation(offset_hz + _doppler_hz(rng, shape, radio), direct, radio)
    channel += _rotation(offset_hz + _doppler_hz(rng, shape, radio), diffuse, radio)
    channel *= _modulation(rng, cases, radio)[:, None, :]
    return channel


def noise(rng: np.random.Generator, cases: int, receivers: int, radio: Radio) -> C64:
    """White complex Gaussian receiver noise [K,R,N] relative to full scale."""
    amplitude = np.float32(np.sqrt(0.5 * 10.0 ** ((radio.noise_dbm - radio.full_scale_dbm) / 10.0)))
    parts = rng.standard_normal((cases, receivers, 2 * radio.samples), dtype=np.float32)
    parts *= amplitude
    return parts.view(np.complex64)


def _block(rng: np.random.Generator, radio: Radio, frame: Frame) -> Captures:
    plane_m = frame.box(radio.margin_m).uniform(rng, BLOCK_CASES)
    gain_db = received_dbm(rng, plane_m, radio, frame) - radio.full_scale_dbm
    cases, receivers = gain_db.shape
    iq = unit_signals(rng, cases, receivers, radio)
    iq *= (10.0 ** (gain_db / 20.0)).astype(np.float32)[..., None]
    iq += noise(rng, cases, receivers, radio)
    return Captures(iq.view(np.float32).reshape(*iq.shape, 2), frame.to_degrees(plane_m))


def _doppler_hz(rng: np.random.Generator, shape: tuple[int, int], radio: Radio) -> F64:
    """Doppler shifts of waves that arrive from uniformly distributed angles (Clarke's model)."""
    shifts: F64 = radio.doppler_max_hz * np.cos(2.0 * np.pi * rng.random(shape))
    return shifts


def _rotation(frequency_hz: F64, amplitude: F64, radio: Radio) -> C64:
    """amplitude·e^{j2πft} as [..., N], by one product of a coarse and a fine rotation instead of N exponentials."""
    phase = 2j * np.pi * frequency_hz[..., None] / radio.sample_rate_hz
    coarse = amplitude[..., None] * np.exp(phase * np.arange(0, radio.samples, _ROTATION_SAMPLES))
    fine = np.exp(phase * np.arange(_ROTATION_SAMPLES))
    product = coarse.astype(np.complex64)[..., :, None] * fine.astype(np.complex64)[..., None, :]
    rotation: C64 = product.reshape(*frequency_hz.shape, -1)[..., : radio.samples]
    return rotation


def _modulation(rng: np.random.Generator, cases: int, radio: Radio) -> C64:
    """FM signals [K,N] of magnitude one: three audio tones whose deviations sum to at most the maximum.

    A tone of frequency f and deviation Δ contributes the phase (Δ/f)·sin(2πft + ψ).
    """
    shape = (cases, _TONES)
    tone_hz = rng.uniform(*radio.audio_hz, shape)
    share = rng.dirichlet(np.ones(_TONES), cases)
    deviation_hz = rng.uniform(0.0, radio.deviation_max_hz, (cases, 1)) * share
    start = np.exp(2j * np.pi * rng.random(shape))
    phase: F32 = _rotation(tone_hz, deviation_hz / tone_hz * start, radio).imag.sum(axis=1)
    return np.cos(phase) + np.complex64(1j) * np.sin(phase)
