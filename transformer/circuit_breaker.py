"""Stop asking a neighbour that does not answer, and find out cheaply when it is back.

What belongs here: the decision whether to try, made from a clock and from reported outcomes alone. What does not: what
is tried, and time limits.

    closed ──failures in a row──▶ open ──pause is over, one attempt──▶ probing ──success──▶ closed
                                   ▲                                      │
                                   └──────failure: a longer pause─────────┘

The pauses grow from the first to the longest by doubling, each shortened by up to half at random, so that the processes
of a fleet that lost the same neighbour do not come back to it in step (M. Brooker, "Exponential Backoff And Jitter",
AWS Architecture Blog, 2015: "equal jitter").
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOSED, _OPEN, _PROBING = "closed", "open", "probing"


class CircuitBreaker:
    """Decides whether to try, and learns from the outcomes.

    Every attempt carries the number of the epoch that it was admitted in; every failure ends an epoch, and outcomes of
    past epochs change nothing. So the hundred attempts that one short stall makes fail are one failure, not a hundred.

    Args:
        failures: So many in a row open it.
        first_pause_s: The pause after opening.
        longest_pause_s: What the pause grows to.
        clock: Seconds, monotonic.
        fraction: Random numbers in [0, 1).
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._allowed_failures = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._fraction = fraction
        self._state = _CLOSED
        self._epoch = 0
        self._failures = 0
        self._pause_s = first_pause_s
        self._retry_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether attempts are admitted freely."""
        return self._state == _CLOSED

    def admit(self) -> int | None:
        """The epoch to report the attempt's outcome with; None when there must be no attempt."""
        if self._state == _OPEN and self._clock() >= self._retry_s:
            self._enter(_PROBING)
            return self._epoch
        return self._epoch if self._state == _CLOSED else None

    def succeeded(self, epoch: int) -> bool:
        """Report that the attempt worked; returns whether this closed the breaker."""
        if epoch != self._epoch:
            return False
        reopened = self._state == _PROBING
        if reopened:
            self._enter(_CLOSED)
        self._failures = 0
        self._pause_s = self._first_pause_s
        return reopened

    def failed(self, epoch: int) -> bool:
        """Report that the attempt failed; returns whether this opened the breaker, the first time in a row."""
        if epoch != self._epoch:
            return False
        self._failures += 1
        self._epoch += 1
        probe = self._state == _PROBING
        if not probe and self._failures < self._allowed_failures:
            return False
        self._enter(_OPEN)
        self._retry_s = self._clock() + self._pause_s * (1.0 - self._fraction() / 2.0)
        self._pause_s = min(2.0 * self._pause_s, self._longest_pause_s)
        return not probe

    def abandoned(self, epoch: int) -> None:
        """Report an attempt that ended without an outcome; after a probe the next attempt is one."""
        if epoch == self._epoch and self._state == _PROBING:
            self._enter(_OPEN)  # its pause is over already

    def _enter(self, state: str) -> None:
        self._state = state
        self._epoch += 1
