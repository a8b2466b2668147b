from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from reference.estimates import LEVELS, LocalModel
from reference.geometry import offsets_m
from reference.metrics import inside_ellipse
from reference.simulate import captures
from reference.variants import prepare
from rollout.measurements import ProbeAnswers, ProbeResults
from rollout.policy import Policy
from rollout.probe_evidence import log_likelihoods, normalised_squares, unanswered_captures
from rollout.verdict import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.simulate import Captures

TEST = replace(Policy().probe_test(), captures=700)


@pytest.fixture(scope="module")
def drawn() -> Captures:
    """Captures with truth: the size that the smallest probe set has."""
    return captures(17, 700)


@pytest.fixture(scope="module")
def answers(drawn: Captures, pytestconfig: pytest.Config) -> Callable[[str], ProbeAnswers]:
    """What a variant of the reference model says to them."""
    folder = pytestconfig.rootpath / "build" / "reference"

    @cache
    def answer(variant: str) -> ProbeAnswers:
        found = LocalModel(prepare(folder, (variant,))[variant] / "model.onnx").estimate(drawn)
        error_m = offsets_m(found.position_deg, drawn.position_deg)
        inside = np.stack([inside_ellipse(error_m, found.ellipses[level]) for level in LEVELS], axis=-1)
        return ProbeAnswers(error_m, found.covariance_m2, inside, found.confidence)

    return answer


def by_signal(probe: ProbeResults) -> dict[str, Reason]:
    """What every signal says."""
    return {reason.signal: reason for reason in TEST.judge(probe)}


def test_scores_are_scipys(probe: Callable[..., ProbeResults]) -> None:
    """Log density and normalised square are those of scipy's multivariate Gaussian."""
    one = probe(20).canary
    for index in range(20):
        covariance = one.covariance_m2[index]
        expected = multivariate_normal(mean=(0.0, 0.0), cov=covariance).logpdf(one.error_m[index])
        assert log_likelihoods(one)[index] == pytest.approx(expected)
        square = one.error_m[index] @ np.linalg.solve(covariance, one.error_m[index])
        assert normalised_squares(one)[index] == pytest.approx(square)


def test_equal_versions_pass(probe: Callable[..., ProbeResults]) -> None:
    """A version with the very same answers passes every signal."""
    assert {reason.outcome for reason in TEST.judge(probe(800))} == {Outcome.PASS}


@pytest.mark.parametrize(
    ("inflation", "stretch", "failed"),
    [
        (0.25, 1.0, {"log-likelihood", "NEES", "coverage at 50%", "coverage at 95%"}),
        (2.0, 1.0, {"log-likelihood", "NEES", "coverage at 50%"}),
        (1.2**2, 1.2, {"log-likelihood", "RMS error ratio"}),
    ],
    ids=["over-confident", "over-cautious", "honest but worse"],
)
def test_mutants_fail_by_the_right_signals(
    probe: Callable[..., ProbeResults], inflation: float, stretch: float, failed: set[str]
) -> None:
    """Each way of being wrong shows in the signals that are made for it and in no other."""
    found = TEST.judge(probe(800, inflation=inflation, stretch=stretch))
    assert {reason.signal for reason in found if reason.outcome is Outcome.FAIL} >= failed - {"coverage at 95%"}
    assert {reason.signal for reason in found if reason.outcome is Outcome.FAIL} <= failed | {"coverage at 95%"}


def test_too_small_a_probe_set_decides_nothing(probe: Callable[..., ProbeResults]) -> None:
    """Below the size that the policy wants nothing is failed and nothing is passed."""
    (reason,) = TEST.judge(probe(699, inflation=0.01))
    assert reason.outcome is Outcome.INCONCLUSIVE
    assert reason.sentence == "the probe set has 699 captures, and 700 are needed"


def test_unanswered_captures_are_told_and_not_judged(probe: Callable[..., ProbeResults]) -> None:
    """NaN, a covariance that is none, and missing answers make the signal inconclusive with their number."""
    results = probe(800)
    error_m, covariance_m2 = results.canary.error_m.copy(), results.canary.covariance_m2.copy()
    error_m[3, 0], covariance_m2[5], covariance_m2[6] = np.nan, np.inf, -np.eye(2)
    broken = replace(results.canary, error_m=error_m, covariance_m2=covariance_m2)
    assert unanswered_captures(broken) == 3
    (reason,) = TEST.judge(replace(results, canary=broken))
    assert reason.outcome is Outcome.INCONCLUSIVE
    assert reason.sentence == "the stable version left 0 captures unanswered and the canary 3"


def test_one_capture_cannot_decide_a_release(probe: Callable[..., ProbeResults]) -> None:
    """A capture that one version misjudges wildly counts for one nat, whichever of the two it is."""
    results = probe(800)
    error_m = results.stable.error_m.copy()
    error_m[0] = 1e9
    wild = replace(results.stable, error_m=error_m)
    for stable, canary, loss in ((wild, results.canary, -1.0), (results.stable, wild, 1.0)):
        excess = TEST.excesses(replace(results, stable=stable, canary=canary))[0]
        assert excess.values[0] == pytest.approx(loss - TEST.allowed_loss)


def test_error_probabilities_add_to_alpha() -> None:
    """The signals share alpha, and the log-likelihood has half of it."""
    levels = TEST.levels(14)
    assert levels.sum() == pytest.approx(TEST.alpha)
    assert levels[0] == pytest.approx(TEST.alpha / 2.0)


def test_overconfident_variant(answers: Callable[[str], ProbeAnswers]) -> None:
    """The over-confident model fails by its likelihood, its NEES and every coverage, and not by its RMS error."""
    found = by_signal(ProbeResults(LEVELS, np.arange(700), answers("reference"), answers("overconfident")))
    passed = {signal for signal, reason in found.items() if reason.outcome is Outcome.PASS}
    assert passed == {"RMS error ratio"}


def test_only_the_likelihood_sees_ellipses_without_orientation(answers: Callable[[str], ProbeAnswers]) -> None:
    """no_theta keeps coverage and NEES; its likelihood alone is worse, by 0.02 to 0.07 nats a capture."""
    found = by_signal(ProbeResults(LEVELS, np.arange(700), answers("reference"), answers("no_theta")))
    loss = found.pop("log-likelihood").figure
    assert loss is not None
    assert -0.07 < loss < -0.02
    assert {reason.outcome for reason in found.values()} == {Outcome.PASS}
