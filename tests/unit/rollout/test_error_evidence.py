from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.error_evidence import ErrorTest
from rollout.measurements import Calls
from rollout.proportions import Counts
from rollout.verdict import Outcome

UNHURRIED = settings(deadline=None, max_examples=50)  # other tests may run on the same cores

TEST = ErrorTest(allowed_increase=0.005, unacceptable_increase=0.02, alpha=0.001, beta=0.01)
ORDER = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL)
STABLE = Counts(20, 2_000)


def judged(canary_errors: int, canary: int, stable_errors: int, stable: int) -> Outcome:
    """The outcome of these counts."""
    arms = (Calls(canary - canary_errors, failed=canary_errors), Calls(stable - stable_errors, timed_out=stable_errors))
    return TEST.judge(*arms).outcome


def rank(canary: Counts) -> int:
    """How bad the outcome of these counts is, beside the usual stable arm: 0 passes, 2 fails."""
    return 1 + int(TEST.fails(canary, STABLE)) - int(TEST.passes(canary, STABLE))


def test_crashing_canary_fails_within_a_hundred_calls() -> None:
    """Twenty errors in a hundred calls are enough beside a stable arm that nearly never fails."""
    assert judged(20, 100, 19, 1_900) is Outcome.FAIL


def test_no_calls_decide_nothing() -> None:
    """Without any calls the signal is inconclusive."""
    assert judged(0, 0, 0, 0) is Outcome.INCONCLUSIVE


def test_equal_arms_pass_in_time() -> None:
    """One per cent on both sides passes after some thousand calls, and not after a hundred."""
    assert judged(1, 100, 19, 1_900) is Outcome.INCONCLUSIVE
    assert judged(30, 3_000, 570, 57_000) is Outcome.PASS


def test_a_sick_stable_arm_does_not_condemn_the_canary() -> None:
    """When both arms fail alike, as in an outage behind them, the canary is not rolled back."""
    assert judged(500, 1_000, 9_500, 19_000) is not Outcome.FAIL


def test_reason_names_the_figures() -> None:
    """The sentence has the counts, the interval and both margins; figure and bound are those that decided."""
    reason = TEST.judge(Calls(2_900, unreachable=100), Calls(56_430, refused=570))
    assert reason.outcome is Outcome.FAIL
    assert reason.figure is not None
    assert reason.figure > 0.005 == reason.bound
    assert "100 of the canary's 3000 calls failed and 570 of the stable arm's 57000: +2.33% points" in reason.sentence


@UNHURRIED
@given(st.integers(0, 1_000), st.integers(0, 400), st.integers(0, 400))
def test_more_errors_never_improve_the_outcome(calls: int, errors: int, more: int) -> None:
    """With the calls fixed, more of them failing moves the outcome only towards failure."""
    few, many = sorted((min(errors, calls), min(errors + more, calls)))
    better, worse = (rank(Counts(count, calls)) for count in (few, many))
    assert worse >= better


@UNHURRIED
@given(st.integers(0, 2_000), st.floats(0.0, 1.0), st.floats(1e-4, 0.2), st.floats(1e-4, 0.2))
def test_failing_is_monotone_in_alpha(calls: int, share: float, one: float, other: float) -> None:
    """What fails at a small alpha fails at every larger one."""
    strict, lax = (ErrorTest(0.005, 0.02, alpha=alpha, beta=0.01) for alpha in sorted((one, other)))
    canary = Counts(int(share * calls), calls)
    assert strict.fails(canary, STABLE) <= lax.fails(canary, STABLE)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 3_000), st.floats(0.0, 0.2))
def test_reason_says_what_the_tests_say(calls: int, share: float) -> None:
    """The outcome for people is that of the tests which the study runs on thousands of releases at once."""
    errors = int(share * calls)
    assert ORDER.index(judged(errors, calls, 20, 2_000)) == rank(Counts(errors, calls))
