from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.assess import assess
from rollout.measurements import ArmCounts, Calls, Disagreement, Histogram, Look, Measurements, ProbeResults
from rollout.policy import Policy
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

UNHURRIED = settings(deadline=None, max_examples=15)  # other tests may run on the same cores

POLICY = Policy(probe_captures=700, probe_resamples=9_999)


@pytest.fixture(scope="module")
def good(look: Callable[..., Look], probe: Callable[..., ProbeResults]) -> Measurements:
    """A canary that is as good as the stable arm in every way."""
    return Measurements((look(1_000, 10, elapsed_s=300.0), look(3_000, 30)), probe(700))


def signals(measurements: Measurements, outcome: Outcome, policy: Policy = POLICY) -> set[str]:
    """The signals of that outcome."""
    return {reason.signal for reason in assess(measurements, policy).reasons if reason.outcome is outcome}


def test_good_version_passes(good: Measurements) -> None:
    """Everything shown to be acceptable is a pass, with a reason for every signal."""
    verdict = assess(good, POLICY)
    assert verdict.outcome is Outcome.PASS
    assert [reason.signal for reason in verdict.reasons] == [
        "errors",
        "latency",
        "log-likelihood",
        "RMS error ratio",
        "NEES",
        "coverage at 50%",
        "coverage at 95%",
    ]
    assert not verdict.overdue


def test_each_signal_alone_fails_a_release(
    good: Measurements, look: Callable[..., Look], probe: Callable[..., ProbeResults]
) -> None:
    """Errors, latency and the model's honesty each suffice, and the reason that decided comes first."""
    crashing = replace(good, looks=(look(3_000, 600),))
    slow = replace(good, looks=(look(3_000, 30, median_s=0.024),))
    dishonest = replace(good, probe=probe(700, inflation=0.25))
    for measurements, signal in ((crashing, "errors"), (slow, "latency"), (dishonest, "log-likelihood")):
        verdict = assess(measurements, POLICY)
        assert verdict.outcome is Outcome.FAIL
        assert verdict.reasons[0].signal == signal


def test_failure_does_not_wait(look: Callable[..., Look]) -> None:
    """A crashing canary fails at its first look, before the probe set was run and the shortest step is over."""
    assert assess(Measurements((look(100, 90, elapsed_s=30.0),)), POLICY).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("change", "signal", "sentence"),
    [
        (lambda good: replace(good, looks=()), "measurements", "nothing has been measured yet"),
        (lambda good: replace(good, probe=None), "probe set", "the probe set has not been run"),
        (
            lambda good: replace(good, looks=(replace(good.looks[-1], canary=None),)),
            "measurements",
            "nothing is known of canary",
        ),
        (
            lambda good: replace(
                good,
                looks=(replace(good.looks[-1], stable=replace(good.looks[-1].stable, calls=Calls(math.nan))),),
            ),
            "measurements",
            "stable has no number for succeeded",
        ),
        (
            lambda good: replace(good, looks=(replace(good.looks[-1], elapsed_s=30.0),)),
            "waiting",
            "the step has lasted 30 s of at least 120 s",
        ),
    ],
)
def test_what_is_missing_is_inconclusive_with_its_own_message(
    good: Measurements, change: Callable[[Measurements], Measurements], signal: str, sentence: str
) -> None:
    """No data, an arm missing, NaN, no probe set and too early are told apart, and none rolls back or promotes."""
    verdict = assess(change(good), POLICY)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (signal, sentence) in {(reason.signal, reason.sentence) for reason in verdict.reasons}


def test_too_few_calls_do_not_pass(good: Measurements) -> None:
    """The policy's least number of calls holds for errors and for durations, however clear they look."""
    verdict = assess(good, replace(POLICY, minimum_calls=5_000))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "3000 of the canary's calls are counted, and 5000 are needed to pass" in {
        reason.sentence for reason in verdict.reasons
    }


def test_time_that_is_up_is_told(good: Measurements) -> None:
    """After the longest step the verdict says that waiting on is no use, whatever its outcome."""
    late = replace(good, looks=(replace(good.looks[-1], elapsed_s=7_200.0),), probe=None)
    verdict = assess(late, POLICY)
    assert (verdict.outcome, verdict.overdue) == (Outcome.INCONCLUSIVE, True)


def test_contradictions_are_an_error_and_nothing_else_is_said(good: Measurements) -> None:
    """Counts that go backwards make every other figure worthless, a failure too."""
    verdict = assess(replace(good, looks=good.looks[::-1]), POLICY)
    assert verdict.outcome is Outcome.ERROR
    assert {reason.signal for reason in verdict.reasons} == {"measurements"}


def test_arms_with_different_buckets_are_an_error(good: Measurements) -> None:
    """Quantiles of different buckets are not compared."""
    last = good.looks[-1]
    assert last.canary is not None
    other = ArmCounts(last.canary.calls, Histogram((1.0,), (3_000.0, 0.0)))
    verdict = assess(replace(good, looks=(replace(last, canary=other),)), POLICY)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reasons[0].sentence == "the arms' latency buckets have different bounds"


def test_probe_results_of_different_captures_are_an_error(good: Measurements) -> None:
    """Pairs that are none are not compared."""
    assert good.probe is not None
    unpaired = replace(good.probe, position=np.arange(699))
    assert assess(replace(good, probe=unpaired), POLICY).outcome is Outcome.ERROR


def test_live_figures_are_noted_and_not_judged(good: Measurements) -> None:
    """Disagreement alone never changes the outcome."""
    verdict = assess(replace(good, disagreement=Disagreement(100, 5e4, 100)), POLICY)
    assert verdict.outcome is Outcome.PASS
    assert len(verdict.notes) == 1


@UNHURRIED
@given(calls=st.integers(1, 3_000), errors=st.integers(0, 60), more=st.integers(0, 60))
def test_more_errors_never_improve_the_verdict(look: Callable[..., Look], calls: int, errors: int, more: int) -> None:
    """Where a verdict without these errors is a failure, one with them is, and it never becomes a pass."""
    few, many = min(errors, calls), min(errors + more, calls)
    before, after = (signals(Measurements((look(calls, count),)), Outcome.FAIL) for count in (few, many))
    assert "errors" not in before or "errors" in after
