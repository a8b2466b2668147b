from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from transformer.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def breaker(clock: Callable[[], float]) -> CircuitBreaker:
    """Opens at the third failure, pauses 0.5 to 2 s, without randomness."""
    return CircuitBreaker(failures=3, first_pause_s=0.5, longest_pause_s=2.0, clock=clock, fraction=lambda: 0.0)


def _attempt(breaker: CircuitBreaker, *, works: bool) -> bool:
    """Make one attempt, which must be admitted."""
    epoch = breaker.admit()
    assert epoch is not None
    return breaker.succeeded(epoch) if works else breaker.failed(epoch)


def _open(breaker: CircuitBreaker) -> None:
    assert [_attempt(breaker, works=False) for _ in range(3)] == [False, False, True]
    assert not breaker.closed


def test_it_opens_at_the_third_failure_in_a_row(breaker: CircuitBreaker) -> None:
    """Two failures change nothing, a success between them starts the count anew, three in a row open it."""
    for works in (False, False, True, False, False):
        _attempt(breaker, works=works)
    assert breaker.closed
    assert _attempt(breaker, works=False)
    assert breaker.admit() is None


def test_failures_of_the_same_moment_are_one(breaker: CircuitBreaker) -> None:
    """A stall that a hundred attempts meet at once is one failure, before and after opening."""
    epochs = [breaker.admit() for _ in range(100)]
    assert not any(breaker.failed(epoch) for epoch in epochs if epoch is not None)
    assert breaker.closed


def test_one_attempt_probes_after_the_pause(breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
    """After the pause exactly one attempt is admitted until its outcome is known."""
    _open(breaker)
    clock.now_s += 0.499
    assert breaker.admit() is None
    clock.now_s += 0.001
    epoch = breaker.admit()
    assert epoch is not None
    assert breaker.admit() is None
    assert breaker.succeeded(epoch)
    assert breaker.closed
    assert not _attempt(breaker, works=True)


def test_pauses_double_up_to_the_longest(breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
    """Every failed probe doubles the pause, and a success brings it back to the first."""
    _open(breaker)
    for pause_s in (0.5, 1.0, 2.0, 2.0):
        clock.now_s += pause_s - 0.001
        assert breaker.admit() is None
        clock.now_s += 0.002
        assert not _attempt(breaker, works=False), "a failed probe is no news"
    clock.now_s += 2.0
    assert _attempt(breaker, works=True)
    _open(breaker)
    clock.now_s += 0.5
    assert breaker.admit() is not None


@pytest.mark.parametrize(("fraction", "pause_s"), [(0.0, 0.5), (0.5, 0.375), (0.999, 0.25025)])
def test_pauses_are_shortened_at_random(clock: Callable[[], float], fraction: float, pause_s: float) -> None:
    """Processes that lost the same neighbour come back at different times, none before half of the pause."""
    breaker = CircuitBreaker(clock=clock, fraction=lambda: fraction)
    _open(breaker)
    clock.now_s += pause_s - 0.001
    assert breaker.admit() is None
    clock.now_s += 0.002
    assert breaker.admit() is not None


def test_outcomes_of_the_past_change_nothing(breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
    """Attempts from before it opened neither close it nor lengthen its pause, also while it probes."""
    old = breaker.admit()
    assert old is not None
    _open(breaker)
    assert not breaker.succeeded(old)
    assert not breaker.failed(old)
    clock.now_s += 0.5
    probe = breaker.admit()
    assert probe is not None
    assert not breaker.succeeded(old)
    breaker.abandoned(old)
    assert breaker.admit() is None
    assert breaker.succeeded(probe)


def test_an_abandoned_probe_is_followed_by_another(breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
    """A probe whose request was cancelled neither blocks the next one nor counts as an outcome."""
    _open(breaker)
    clock.now_s += 0.5
    probe = breaker.admit()
    assert probe is not None
    breaker.abandoned(probe)
    assert not breaker.closed
    assert _attempt(breaker, works=True)


def test_an_abandoned_attempt_is_no_failure(breaker: CircuitBreaker) -> None:
    """Clients that hang up do not open it."""
    for _ in range(10):
        epoch = breaker.admit()
        assert epoch is not None
        breaker.abandoned(epoch)
    assert breaker.closed
