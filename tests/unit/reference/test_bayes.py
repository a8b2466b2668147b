from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import ncx2, norm

from reference.bayes import Posterior, crb_drms_m
from reference.features import LAYOUT, spectra
from reference.pooling import pool, selection
from reference.simulate import FRAME, RADIO, received_dbm

if TYPE_CHECKING:
    from reference.arrays import F32, F64
    from reference.pooling import Pool
    from reference.simulate import Captures

POSTERIOR = Posterior()


@pytest.fixture(scope="module")
def windows() -> Pool:
    """Simulated windows of another seed than training's."""
    return pool(9, 4_000)


def rms(error_m: F64) -> float:
    """Root mean square length."""
    return float(np.sqrt(np.mean(np.sum(error_m**2, axis=1))))


def test_fading_without_doppler_is_rician() -> None:
    """The quadrature of the fading power has the quantiles of the non-central χ² distribution (scipy)."""
    still = Posterior(dataclasses.replace(RADIO, doppler_max_hz=0.0))
    kappa, levels = 10.0, np.array([0.02, 0.1, 0.5, 0.9, 0.98])
    expected = 10.0 * np.log10(ncx2(2, 2.0 * kappa).ppf(levels) / (2.0 * (kappa + 1.0)))
    assert np.quantile(still.fading_db(), levels) == pytest.approx(expected, abs=0.12)


def test_fading_model_is_the_simulators(windows: Pool) -> None:
    """The assumed distribution of measured in-band fading is that of simulated captures, Doppler included."""
    measured = 10.0 * np.log10(windows.signal_mw[:, 0] / RADIO.full_scale_mw)
    assumed = POSTERIOR.fading_db()
    assert measured.std() == pytest.approx(assumed.std(), rel=0.06)
    assert np.quantile(measured, (0.1, 0.5, 0.9)) == pytest.approx(np.quantile(assumed, (0.1, 0.5, 0.9)), abs=0.12)


def test_noise_model_is_the_simulators(windows: Pool) -> None:
    """Mean and spread of the measured in-band noise power are as the likelihood assumes."""
    noise_mw = windows.noise_mw[:, 0].astype(np.float64)
    assert noise_mw.mean() == pytest.approx(POSTERIOR.noise_mw, rel=0.005)
    assert noise_mw.std() / noise_mw.mean() == pytest.approx(POSTERIOR.time_bandwidth**-0.5, rel=0.1)


def test_equals_brute_force_for_gaussian_spread() -> None:
    """With Gaussian spread and hardly any noise, the posterior mean is that of a direct sum over position and EIRP.

    Rounding levels to 0.1 dB moves an answer by some hundred metres, 1 % of its posterior's width.
    """
    quiet = dataclasses.replace(RADIO, rician_k_db=80.0, noise_figure_db=-60.0)
    posterior = Posterior(quiet, step_m=6_000.0)
    rng = np.random.default_rng(3)
    box = FRAME.box(quiet.margin_m)
    measured_dbm = received_dbm(rng, box.uniform(rng, 5), quiet, FRAME)
    cells = box.cell_centres(6_000.0)
    loss_db = quiet.path_loss_db(np.linalg.norm(cells[:, None] - FRAME.sites_m(), axis=-1))
    eirp_dbm = np.linspace(25.0, 55.0, 301)
    for found, dbm in zip(
        posterior.mean_m((10.0 ** (measured_dbm / 10.0)).astype(np.float32)), measured_dbm, strict=True
    ):
        residual = dbm - (eirp_dbm[:, None, None] - loss_db)
        logarithm = norm.logpdf(residual, scale=4.0).sum(axis=-1) + norm.logpdf(eirp_dbm, 40.0, 3.0)[:, None]
        weights = np.exp(logarithm - logarithm.max()).sum(axis=0)
        assert found == pytest.approx(weights @ cells / weights.sum(), abs=500.0)


def test_grid_is_fine_enough(inband_mw: F32, drawn: Captures) -> None:
    """Cells of half the width change the RMS error by less than half a percent."""
    truth_m = FRAME.to_plane(drawn.position_deg)[:150]
    coarse = rms(POSTERIOR.mean_m(inband_mw[:150]) - truth_m)
    fine = rms(Posterior(step_m=1_500.0).mean_m(inband_mw[:150]) - truth_m)
    assert coarse == pytest.approx(fine, rel=0.005)


def test_no_constant_stretch_of_the_answer_is_better(inband_mw: F32, drawn: Captures) -> None:
    """A posterior mean is unbiased given itself: the regression of the truth on it has slope one."""
    truth_m, mean_m = FRAME.to_plane(drawn.position_deg), POSTERIOR.mean_m(inband_mw)
    slope = np.sum(truth_m * mean_m) / np.sum(mean_m**2)
    assert slope == pytest.approx(1.0, abs=0.06)


def test_silence_is_answered_with_a_position() -> None:
    """Powers of zero are a legal measurement, far from all receivers."""
    assert np.isfinite(POSTERIOR.mean_m(np.zeros((1, 7), dtype=np.float32))).all()


def test_bound_has_the_known_size() -> None:
    """Median Cramér-Rao DRMS over the region: 8.7 km at 1 dB, 29.4 km at 4 dB, 32.1 km at 4.47 dB of spread."""
    plane_m = FRAME.box(30_000.0).cell_centres(4_000.0)
    medians_km = [np.median(crb_drms_m(plane_m, std_db)) / 1e3 for std_db in (1.0, 4.0, 4.47)]
    assert medians_km == pytest.approx([8.7, 29.4, 32.1], abs=0.3)


def test_bound_equals_the_inverse_of_the_full_information() -> None:
    """Eliminating the EIRP by the lemma equals inverting the 3 × 3 information, its prior added."""
    point = np.array([[12_000.0, -34_000.0]])
    offset = point - FRAME.sites_m()
    slope = -30.0 / np.log(10.0) * offset / np.sum(offset**2, axis=1, keepdims=True)
    jacobian = np.column_stack([slope, np.ones(len(offset))])
    information = jacobian.T @ jacobian / 4.0**2 + np.diag([0.0, 0.0, 1.0 / 3.0**2])
    expected = np.sqrt(np.trace(np.linalg.inv(information)[:2, :2]))
    assert crb_drms_m(point, 4.0)[0] == pytest.approx(expected)


def test_inband_share_counts_both_sides() -> None:
    """The noise share is a third of the sampled band (16 of 48 kHz), edges of the triangles included."""
    share = (LAYOUT.bank @ selection())[:, 0].sum() / LAYOUT.fft_size
    assert share == pytest.approx(16.0 / 48.0, rel=0.03)
    assert spectra(np.zeros(LAYOUT.samples, dtype=np.complex64)).shape == (LAYOUT.frames, LAYOUT.fft_size)
