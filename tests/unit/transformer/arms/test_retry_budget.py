from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.retry_budget import RetryBudget


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time that it shows."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def withdrawn(budget: RetryBudget, attempts: int = 10_000) -> int:
    """How many retries are allowed at this moment."""
    return sum(budget.withdraw() for _ in range(attempts))


@pytest.mark.parametrize(("requests", "allowed"), [(0, 30), (5, 31), (100, 50), (1000, 230)])
def test_share_and_reserve(clock: Clock, requests: int, allowed: int) -> None:
    """Retries are 20 % of the last ten seconds' requests on top of three a second: Finagle's rule."""
    budget = RetryBudget(clock=clock)
    for _ in range(requests):
        budget.deposit()
    assert withdrawn(budget) == allowed


def test_deposits_expire(clock: Clock) -> None:
    """Requests that are ten seconds old buy no retries any more."""
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.deposit()
    clock.now_s += 9.0
    assert budget.withdraw()
    clock.now_s += 1.0
    assert withdrawn(budget) == 29


def test_retries_are_forgiven(clock: Clock) -> None:
    """A budget that was used up is whole again after its window."""
    budget = RetryBudget(clock=clock)
    assert withdrawn(budget) == 30
    clock.now_s += 9.9
    assert withdrawn(budget) == 0
    clock.now_s += 0.1
    assert withdrawn(budget) == 30


@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200))
def test_never_overdrawn(steps: list[tuple[float, bool]]) -> None:
    """Whatever the order of requests and faults, the retries of a window stay within the rule (recounted naively)."""
    clock = Clock()
    budget = RetryBudget(share=0.5, minimum_per_s=0.2, window_s=10, clock=clock)
    requests: list[int] = []
    retries: list[int] = []
    for pause_s, is_request in steps:
        clock.now_s += pause_s
        second = int(clock.now_s)
        live = sum(second - 10 < start <= second for start in requests)
        spent = sum(second - 10 < start <= second for start in retries)
        if is_request:
            budget.deposit()
            requests.append(second)
        else:
            allowed = spent + 1 <= 2.0 + 0.5 * live
            assert budget.withdraw() is allowed
            retries += [second] * allowed
