"""The two powers per receiver that a position can be told from, and a way to draw them without drawing IQ again.

What belongs here: in-band and out-of-band sums, and the pool of windows. What does not: what a network makes of them.

A window of unsynchronised receivers carries no usable time or phase, so its observable is received power. The STFT
is linear, hence for gain G, faded signal S and noise N

    mean|√G·S + N|² = G·mean|S|² + mean|N|² + 2√G·mean Re(S·N*)

and the three means of one window serve for every gain: positions and shadowing can be redrawn for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.features import LAYOUT, Layout, spectra
from reference.simulate import BLOCK_CASES, FRAME, RADIO, Radio, noise, received_dbm, unit_signals

if TYPE_CHECKING:
    from reference.arrays import F32, F64
    from reference.geometry import Frame

INBAND_HZ = 8_000.0
"""|f| below this holds the signal: Carson's 2·(2.5 + 3) kHz bandwidth and 1.6 kHz of frequency error."""

OUTBAND_HZ = 10_000.0
"""|f| above this holds noise."""


def selection(layout: Layout = LAYOUT) -> F64:
    """Zero-one weights [bands,2] that add up the in-band and the out-of-band powers."""
    frequency_hz = np.abs(layout.band_centre_hz)
    return np.stack([frequency_hz < INBAND_HZ, frequency_hz > OUTBAND_HZ], axis=-1).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Mean |S|², |N|² and 2·Re(S·N*) of W windows, each [W,2] (in band, out of band) in mW at unit gain."""

    signal_mw: F32
    noise_mw: F32
    cross_mw: F32

    def draw(self, rng: np.random.Generator, cases: int, radio: Radio = RADIO, frame: Frame = FRAME) -> tuple[F64, F32]:
        """Transmitters [K,2] in metres of the local frame, and the powers [K,R,2] in mW received from them."""
        plane_m = frame.box(radio.margin_m).uniform(rng, cases)
        gain_db = received_dbm(rng, plane_m, radio, frame) - radio.full_scale_dbm
        amplitude = (10.0 ** (gain_db / 20.0)).astype(np.float32)[..., None]
        window = rng.integers(len(self.signal_mw), size=gain_db.shape)
        power = amplitude * (amplitude * self.signal_mw[window] + self.cross_mw[window]) + self.noise_mw[window]
        return plane_m, power


def pool(seed: int, windows: int, radio: Radio = RADIO, layout: Layout = LAYOUT) -> Pool:
    """Draw at least `windows` windows and keep their three means."""
    rng = np.random.default_rng([seed, 0])
    receivers = len(FRAME.receivers)
    rounds = -(-windows // (BLOCK_CASES * receivers))
    parts = [_terms(rng, receivers, radio, layout) for _ in range(rounds)]
    signal_mw, noise_mw, cross_mw = (np.concatenate(term) for term in zip(*parts, strict=True))
    return Pool(signal_mw, noise_mw, cross_mw)


def _terms(rng: np.random.Generator, receivers: int, radio: Radio, layout: Layout) -> tuple[F32, F32, F32]:
    signal = spectra(unit_signals(rng, BLOCK_CASES, receivers, radio), layout)
    disturbance = spectra(noise(rng, BLOCK_CASES, receivers, radio), layout)
    weights = (layout.bank @ selection(layout)).astype(np.float32)

    def summed(power: F32) -> F32:
        return np.asarray((power.mean(axis=-2) @ weights).reshape(-1, 2), dtype=np.float32)

    cross = signal.real * disturbance.real + signal.imag * disturbance.imag
    return (
        summed(np.square(signal.real) + np.square(signal.imag)),
        summed(np.square(disturbance.real) + np.square(disturbance.imag)),
        2.0 * summed(cross),
    )
