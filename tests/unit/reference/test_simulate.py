from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reference.features import spectra
from reference.simulate import BLOCK_CASES, FRAME, RADIO, blocks, captures, noise, received_dbm, unit_signals

RECEIVERS = len(FRAME.receivers)


def test_same_seed_gives_the_same_samples() -> None:
    """Captures are a function of the seed alone."""
    assert np.array_equal(captures(3, 4).iq, captures(3, 4).iq)
    assert not np.array_equal(captures(3, 4).iq, captures(4, 4).iq)


def test_case_does_not_depend_on_how_many_are_drawn() -> None:
    """The first cases of a long run are those of a short run, across block borders."""
    few, many = captures(3, BLOCK_CASES + 2), captures(3, BLOCK_CASES + 9)
    assert len(few) == BLOCK_CASES + 2
    assert np.array_equal(few.iq, many.first(len(few)).iq)
    assert np.array_equal(few.position_deg, many.first(len(few)).position_deg)


def test_blocks_hold_all_cases_and_no_more() -> None:
    """A run that ends inside a block yields a shorter last block."""
    assert [len(block) for block in blocks(1, BLOCK_CASES + 1)] == [BLOCK_CASES, 1]


def test_shapes_and_dtypes() -> None:
    """Captures have the layout of the service's input `iq`, and its complex view shares the memory."""
    drawn = captures(1, 2)
    assert drawn.iq.shape == (2, RECEIVERS, RADIO.samples, 2)
    assert drawn.iq.dtype == np.float32
    assert np.shares_memory(drawn.complex_iq(), drawn.iq)


def test_path_loss_follows_the_log_distance_model() -> None:
    """75.7 dB at 1 km, 30 dB more per decade, and constant below the reference distance."""
    assert RADIO.path_loss_db(np.array([1e2, 1e3, 1e4, 1e5])) == pytest.approx([75.7, 75.7, 105.7, 135.7])


def test_received_power_has_the_model_s_mean_and_spread() -> None:
    """EIRP varies by 3 dB in common, shadowing by 4 dB per receiver."""
    rng = np.random.default_rng(1)
    power = received_dbm(rng, np.zeros((20_000, 2)), RADIO, FRAME)
    loss = RADIO.path_loss_db(np.linalg.norm(FRAME.sites_m(), axis=-1))
    assert power.mean(axis=0) == pytest.approx(40.0 - loss, abs=0.15)
    assert power.std(axis=0) == pytest.approx(np.full(RECEIVERS, 5.0), abs=0.12)
    assert np.cov(power[:, 0], power[:, 5])[0, 1] == pytest.approx(9.0, abs=0.5)


def test_noise_is_thermal_noise_and_noise_figure() -> None:
    """−174 dBm/Hz over 48 kHz plus 6 dB is −121.2 dBm, and the samples have that power."""
    assert pytest.approx(-121.19, abs=0.01) == RADIO.noise_dbm
    samples = noise(np.random.default_rng(1), 20, RECEIVERS, RADIO)
    power_dbm = 10.0 * np.log10(np.mean(np.abs(samples) ** 2)) + RADIO.full_scale_dbm
    assert power_dbm == pytest.approx(RADIO.noise_dbm, abs=0.05)


def test_fading_has_unit_mean_power_and_rician_spread() -> None:
    """E|h|² = 1 and, for a Rician factor of 10 dB, the power's standard deviation is √(2κ+1)/(κ+1) without Doppler."""
    still = dataclasses.replace(RADIO, doppler_max_hz=0.0, samples=64)
    signals = unit_signals(np.random.default_rng(1), 3_000, RECEIVERS, still)
    power = np.mean(np.abs(signals) ** 2, axis=-1)
    assert power.mean() == pytest.approx(1.0, abs=0.01)
    assert power.std() == pytest.approx(np.sqrt(21.0) / 11.0, rel=0.03)


def test_modulation_has_constant_envelope() -> None:
    """An FM signal through a channel that does not move keeps its magnitude over the whole capture."""
    still = dataclasses.replace(RADIO, doppler_max_hz=0.0)
    magnitude = np.abs(unit_signals(np.random.default_rng(1), 4, RECEIVERS, still))
    assert magnitude / magnitude.mean(axis=-1, keepdims=True) == pytest.approx(np.ones_like(magnitude), abs=1e-4)


def test_signal_stays_within_eight_kilohertz() -> None:
    """Carson's bandwidth and the frequency errors fit the band that the network sums, on both sides of zero."""
    bins = spectra(unit_signals(np.random.default_rng(1), 40, RECEIVERS, RADIO))
    power = (np.abs(bins) ** 2).mean(axis=(0, 1, 2))
    frequency_hz = (np.arange(512) - 256) * 48_000 / 512
    assert power[np.abs(frequency_hz) < 8_000].sum() / power.sum() > 0.9999
    assert 0.3 < power[frequency_hz < 0].sum() / power.sum() < 0.7


def test_receivers_differ_by_their_own_frequency_errors() -> None:
    """One capture's receivers see the same transmitter within ±100 Hz of each other's oscillators, plus Doppler."""
    signals = unit_signals(np.random.default_rng(1), 50, RECEIVERS, RADIO)
    beat = signals[:, 1:] * np.conj(signals[:, :1])
    turns = np.angle(np.sum(beat[..., 1:] * np.conj(beat[..., :-1]), axis=-1)) / (2.0 * np.pi)
    beat_hz = np.abs(turns * RADIO.sample_rate_hz)
    assert 100.0 < beat_hz.max() < 2.0 * RADIO.receiver_offset_hz + 2.0 * RADIO.doppler_max_hz
