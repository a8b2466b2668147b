from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference import metrics
from reference.calibrate import gaussian_scale
from reference.contract import FEATURE_MEAN, FEATURE_STD
from reference.estimates import LEVELS, LocalModel, concatenated
from reference.evaluate import Judged, in_blocks, judge_locally, report
from reference.features import LAYOUT, band_powers_mw
from reference.geometry import offsets_m

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reference.arrays import C64, F32, F64
    from reference.simulate import Captures


@pytest.fixture(scope="module")
def judged(model_path: Callable[[str], Path], drawn: Captures) -> Judged:
    """The reference model's answers to the shared captures."""
    return judge_locally(LocalModel(model_path("reference")), in_blocks(drawn))


def with_bound_of(judged: Judged, model: LocalModel, drawn: Captures) -> Judged:
    """Another model's answers to the same captures; the bound is the same and is not computed again."""
    estimates = concatenated([model.estimate(block) for block in in_blocks(drawn)])
    error_m = offsets_m(estimates.position_deg, drawn.position_deg)
    return Judged(error_m, judged.bayes_error_m, judged.crb_m, estimates)


def loses(judged: Judged, error_m: F64, covariance_m2: F64) -> bool:
    """Whether a mutant's log-likelihood is lower on the same cases, beyond doubt."""
    mutant = metrics.log_likelihoods(error_m, covariance_m2)
    return metrics.paired_difference(mutant, judged.log_likelihoods()).high < 0.0


def axes_of(covariance_m2: F64) -> tuple[F64, F64, F64]:
    """Sigma x, sigma y and theta of covariances."""
    ellipse = metrics.ellipses(covariance_m2, 1.0)
    return ellipse[:, 0], ellipse[:, 1], np.deg2rad(90.0 - ellipse[:, 2])


def test_model_reaches_the_exact_bound(judged: Judged) -> None:
    """On full IQ the RMS error is within 3 % of the exact posterior mean's on the same cases."""
    found = report(judged)
    assert found.rms_to_bayes < 1.03
    assert 0.8 < found.crb_rms_m / found.bayes_rms_m.value < 1.3


def test_uncertainty_is_honest(judged: Judged) -> None:
    """Ellipses hold their share and NEES is 2, within what 600 cases can tell."""
    found = report(judged)
    for level, interval in found.coverage.items():
        assert interval.low - 0.01 < float(level) < interval.high + 0.01
    assert found.nees.low - 0.05 < 2.0 < found.nees.high + 0.05


def test_confidence_is_reliable(judged: Judged) -> None:
    """In every bin with 40 cases or more the claim is within 0.15 of what came true."""
    rows = [row for row in report(judged).reliability if row.count >= 40]
    assert len(rows) >= 5
    assert [row.observed for row in rows] == pytest.approx([row.claimed for row in rows], abs=0.15)


def test_report_reads_as_json_and_text(judged: Judged) -> None:
    """Both forms carry the same figures."""
    found = report(judged)
    assert json.loads(found.as_json())["rms_m"]["value"] == found.rms_m.value
    assert f"{found.rms_to_bayes:.4f}" in found.as_text()
    assert set(found.coverage) == {f"{level:g}" for level in LEVELS}


def test_mutant_without_theta_fails(judged: Judged) -> None:
    """Dropping the orientation of the principal axes loses likelihood."""
    sigma_x, sigma_y, _ = axes_of(judged.estimates.covariance_m2)
    mutant = metrics.covariances(np.stack([sigma_x, sigma_y, np.zeros_like(sigma_x)], axis=-1))
    assert loses(judged, judged.error_m, mutant)


def test_mutant_with_marginal_sigmas_fails(judged: Judged, model_path: Callable[[str], Path], drawn: Captures) -> None:
    """The variant `no_theta`, with east and north sigmas, loses likelihood although its coverage is right."""
    mutant = with_bound_of(judged, LocalModel(model_path("no_theta")), drawn)
    assert loses(judged, mutant.error_m, mutant.estimates.covariance_m2)


def test_mutant_with_flipped_theta_fails(judged: Judged) -> None:
    """Turning the ellipse the wrong way loses likelihood."""
    sigma_x, sigma_y, theta = axes_of(judged.estimates.covariance_m2)
    assert loses(judged, judged.error_m, metrics.covariances(np.stack([sigma_x, sigma_y, -theta], axis=-1)))


def test_mutant_with_swapped_coordinates_fails(judged: Judged, drawn: Captures) -> None:
    """Longitude answered as latitude is thousands of kilometres off."""
    error_m = offsets_m(judged.estimates.position_deg[:, ::-1], drawn.position_deg)
    assert loses(judged, error_m, judged.estimates.covariance_m2)


def test_mutant_with_one_dimensional_factors_fails(judged: Judged) -> None:
    """The factors of one dimension (1.645, 1.960 … instead of 2.146, 2.448 …) make ellipses that hold too little."""
    for level, sigmas in ((0.68, 0.9945), (0.9, 1.6449), (0.95, 1.9600), (0.99, 2.5758)):
        ellipse = metrics.ellipses(judged.estimates.covariance_m2, sigmas)
        assert sigmas < gaussian_scale(level)
        assert metrics.share(metrics.inside_ellipse(judged.error_m, ellipse)).high < level


def test_mutant_without_negative_frequencies_fails(
    judged: Judged, model_path: Callable[[str], Path], drawn: Captures
) -> None:
    """Features that ignore half of the spectrum lose likelihood."""

    def halved(iq: C64) -> F32:
        power = band_powers_mw(iq)
        power[..., : LAYOUT.bands // 2] = 0.0
        return np.asarray((np.log(power + np.float32(LAYOUT.floor_mw)) - FEATURE_MEAN) / FEATURE_STD, np.float32)

    mutant = with_bound_of(judged, LocalModel(model_path("reference"), halved), drawn)
    assert loses(judged, mutant.error_m, mutant.estimates.covariance_m2)


def test_mutant_with_small_sigmas_fails(judged: Judged, model_path: Callable[[str], Path], drawn: Captures) -> None:
    """The variant `overconfident` is caught by likelihood, by NEES and by coverage."""
    mutant = with_bound_of(judged, LocalModel(model_path("overconfident")), drawn)
    assert loses(judged, mutant.error_m, mutant.estimates.covariance_m2)
    found = report(mutant)
    assert found.nees.low > 4.0
    assert found.coverage["0.95"].high < 0.7


def test_better_is_better(judged: Judged, model_path: Callable[[str], Path], drawn: Captures) -> None:
    """The variant `better` gains likelihood on the same cases, beyond doubt."""
    better = with_bound_of(judged, LocalModel(model_path("better")), drawn)
    assert metrics.paired_difference(better.log_likelihoods(), judged.log_likelihoods()).low > 0.0


def test_an_honest_answer_passes_every_mutants_test(judged: Judged) -> None:
    """The tests above do not fail whatever they are given: the unchanged answers lose nothing."""
    sigma_x, sigma_y, theta = axes_of(judged.estimates.covariance_m2)
    same = dataclasses.replace(
        judged.estimates, covariance_m2=metrics.covariances(np.stack([sigma_x, sigma_y, theta], -1))
    )
    assert not loses(judged, judged.error_m, same.covariance_m2)
