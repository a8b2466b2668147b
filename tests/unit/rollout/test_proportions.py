from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy.stats import binomtest, norm

from rollout.proportions import (
    Counts,
    difference_bounds,
    exceeds,
    log_difference_evidence,
    log_evidence,
    lower_bound,
    stays_below,
    upper_bound,
)

UNHURRIED = settings(deadline=None, max_examples=50)  # other tests may run on the same cores

ALPHA = 0.01


@st.composite
def counts(draw: st.DrawFn, most: int = 5_000) -> Counts:
    """Successes among trials."""
    trials = draw(st.integers(0, most))
    return Counts(draw(st.integers(0, trials)), trials)


def test_evidence_is_the_integral_it_is_said_to_be() -> None:
    """The closed form equals the integral over the arcsine prior, computed numerically (substitution θ = sin²φ)."""
    k, n, p = 7, 40, 0.05
    likelihood_ratio, _ = integrate.quad(
        lambda phi: (np.sin(phi) ** 2 / p) ** k * (np.cos(phi) ** 2 / (1.0 - p)) ** (n - k) * 2.0 / math.pi,
        0.0,
        math.pi / 2.0,
    )
    assert log_evidence(Counts(k, n), p) == pytest.approx(math.log(likelihood_ratio), rel=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "probability"), [(0, 1, 1 / 2), (0, 2, 3 / 8), (1, 2, 1 / 8), (0, 3, 5 / 16), (1, 3, 1 / 16)]
)
def test_mixture_is_krichevsky_trofimov(k: int, n: int, probability: float) -> None:
    """Probabilities of single sequences from Krichevsky & Trofimov, IEEE Trans. Inf. Theory 27 (1981) 199, §II."""
    assert log_evidence(Counts(k, n), 0.5) == pytest.approx(math.log(probability / 0.5**n))


@UNHURRIED
@given(st.integers(0, 200), st.floats(0.001, 0.999))
def test_evidence_is_a_martingale(n: int, p: float) -> None:
    """From every state, the mean of the next evidence under the tested proportion is the present one."""
    k = n // 3
    now = float(log_evidence(Counts(k, n), p))
    following = [float(log_evidence(Counts(k + hit, n + 1), p)) for hit in (0, 1)]
    average = np.logaddexp(math.log1p(-p) + following[0], math.log(p) + following[1])
    assert average == pytest.approx(now, abs=1e-9)


@UNHURRIED
@given(counts())
def test_bounds_hold_the_exact_fixed_size_interval(found: Counts) -> None:
    """Looking for ever costs: a confidence sequence is never narrower than Clopper and Pearson's interval by scipy."""
    if found.trials == 0:
        assert (lower_bound(found, ALPHA), upper_bound(found, ALPHA)) == (0.0, 1.0)
        return
    fixed = binomtest(int(found.successes), int(found.trials)).proportion_ci(1.0 - ALPHA, method="exact")
    assert lower_bound(found, ALPHA) <= fixed.low + 1e-9
    assert upper_bound(found, ALPHA) >= fixed.high - 1e-9


@UNHURRIED
@given(counts(), st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_bounds_widen_with_confidence(found: Counts, one: float, other: float) -> None:
    """A smaller alpha never gives a narrower interval."""
    small, large = sorted((one, other))
    assert lower_bound(found, small) <= lower_bound(found, large) + 1e-12
    assert upper_bound(found, small) >= upper_bound(found, large) - 1e-12


@UNHURRIED
@given(counts(), counts())
def test_swapped_arms_give_mirrored_bounds(canary: Counts, stable: Counts) -> None:
    """Nothing in the difference prefers one arm."""
    ours, theirs = difference_bounds(canary, stable, ALPHA), difference_bounds(stable, canary, ALPHA)
    assert float(ours.low) == pytest.approx(-float(theirs.high), abs=1e-9)
    assert float(ours.high) == pytest.approx(-float(theirs.low), abs=1e-9)


@UNHURRIED
@given(counts(), counts(), st.floats(-0.3, 0.3))
def test_difference_is_profiled_right(canary: Counts, stable: Counts, difference: float) -> None:
    """The least evidence over all pairs of rates, searched by scipy, is what the bisection of the score finds."""

    def evidence(p: float) -> float:
        return float(log_evidence(canary, p + difference) + log_evidence(stable, p))

    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    found = optimize.minimize_scalar(evidence, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    assert log_difference_evidence(canary, stable, difference) <= found.fun + 1e-6
    assert log_difference_evidence(canary, stable, difference) == pytest.approx(found.fun, abs=1e-3)


@UNHURRIED
@given(counts(), counts(), st.floats(0.0, 0.1))
def test_one_more_error_never_helps(canary: Counts, stable: Counts, difference: float) -> None:
    """Turning a success of the canary into an error never undoes a failure and never brings a pass."""
    if canary.successes == canary.trials:
        return
    worse = Counts(int(canary.successes) + 1, canary.trials)
    assert exceeds(worse, stable, difference, ALPHA) >= exceeds(canary, stable, difference, ALPHA)
    assert stays_below(worse, stable, difference, ALPHA) <= stays_below(canary, stable, difference, ALPHA)


@UNHURRIED
@given(counts(), counts(), st.floats(-0.1, 0.1))
def test_tests_and_bounds_agree(canary: Counts, stable: Counts, difference: float) -> None:
    """A difference is shown to be exceeded exactly when the confidence sequence lies above it."""
    bounds = difference_bounds(canary, stable, ALPHA)
    if abs(bounds.low - difference) > 1e-9:
        assert exceeds(canary, stable, difference, ALPHA) == (bounds.low > difference)
    if abs(bounds.high - difference) > 1e-9:
        assert stays_below(canary, stable, difference, ALPHA) == (bounds.high < difference)


def _releases(rng: np.random.Generator, releases: int, looks: int) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative errors of two equal arms with 1 % errors: canary 50 and stable 950 calls a look; [releases, looks]."""
    canary, stable = (rng.binomial(calls, 0.01, (releases, looks)).cumsum(axis=1) for calls in (50, 950))
    return canary, stable


def test_peeking_is_safe_here_and_not_with_a_fixed_test() -> None:
    """Of 2,000 equal canaries looked at 100 times the z-test at 1 % rolls back over 5 %, the sequence below 1 %."""
    canary, stable = _releases(np.random.default_rng(3), 2_000, 100)
    calls = np.arange(1, 101)
    pooled = (canary + stable) / (1_000 * calls)
    error = np.sqrt(pooled * (1.0 - pooled) * (1.0 / (50 * calls) + 1.0 / (950 * calls)))
    z = (canary / (50 * calls) - stable / (950 * calls)) / np.maximum(error, 1e-12)
    naive = (z > norm.ppf(1.0 - ALPHA)).any(axis=1)
    ours = exceeds(Counts(canary, 50 * calls + 0 * canary), Counts(stable, 950 * calls + 0 * stable), 0.0, ALPHA)
    assert naive.mean() > 0.05
    assert ours.any(axis=1).mean() < ALPHA


def test_sequence_holds_the_truth_at_all_times() -> None:
    """Of 2,000 sequences of 200 looks fewer than 1 % ever leave out the true difference of +1 point."""
    rng = np.random.default_rng(4)
    canary = rng.binomial(50, 0.02, (2_000, 200)).cumsum(axis=1)
    stable = rng.binomial(50, 0.01, (2_000, 200)).cumsum(axis=1)
    calls = 50 * np.arange(1, 201) + 0 * canary
    evidence = log_difference_evidence(Counts(canary, calls), Counts(stable, calls), 0.01)
    assert (evidence >= -np.log(ALPHA)).any(axis=1).mean() < ALPHA
