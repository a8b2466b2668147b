"""How many retries are allowed: a budget that follows the traffic, so that retries never turn a fault into an overload.

What belongs here: the counting. What does not: which failures deserve a retry, and when (`upstream`).

The rule is that of Finagle's RetryBudget (https://finagle.github.io/blog/2016/02/08/retry-budgets): retries may be 20 %
of the requests of the last 10 s, on top of a small constant rate for services with little traffic. Finagle's own
constant is 10/s; here it is 3/s, because one transformer answers tens of requests a second, not thousands.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Second:
    """What happened within one second of the window."""

    start: int
    requests: int = 0
    retries: int = 0


class RetryBudget:
    """A balance of retries over a sliding window. For one event loop: it holds no lock.

    Args:
        share: Retries for each request of the window.
        minimum_per_s: Retries a second that are allowed without any traffic.
        window_s: Length of the window; counted in whole seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        share: float = 0.2,
        minimum_per_s: float = 3.0,
        window_s: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._reserve = minimum_per_s * window_s
        self._window_s = window_s
        self._clock = clock
        self._seconds: deque[_Second] = deque()
        self._requests = 0
        self._retries = 0

    def deposit(self) -> None:
        """Count one request that is no retry."""
        self._now().requests += 1
        self._requests += 1

    def withdraw(self) -> bool:
        """Whether one more retry is allowed; if so, it is counted."""
        second = self._now()
        if self._retries + 1 > self._reserve + self._share * self._requests:
            return False
        second.retries += 1
        self._retries += 1
        return True

    def _now(self) -> _Second:
        start = int(self._clock())
        while self._seconds and self._seconds[0].start <= start - self._window_s:
            gone = self._seconds.popleft()
            self._requests -= gone.requests
            self._retries -= gone.retries
        if not self._seconds or self._seconds[-1].start != start:
            self._seconds.append(_Second(start))
        return self._seconds[-1]
