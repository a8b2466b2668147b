"""Which calls of a revision are ordinary ones: those after it, and this process, have warmed up.

What belongs here: that decision. What does not: the calls (`upstream`) and their durations' metric (`metrics`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Settling:
    """Leaves out the first seconds of the process, and of each place that is called.

    A canary is compared with a revision that has run for days. Its first calls open connections, fill caches and meet
    processors that have not been scaled up yet, and would weigh as much as any other.

    Args:
        settling_s: How long either takes.
        clock: Seconds, monotonic.
    """

    def __init__(self, settling_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settling_s = settling_s
        self._clock = clock
        self._process_s = clock()
        self._first_s: dict[str, float] = {}

    def over(self, place: str) -> bool:
        """Whether a call that begins now is an ordinary one; the first one of a place is noted.

        Args:
            place: A revision, or whatever else is called.
        """
        now_s = self._clock()
        first_s = self._first_s.setdefault(place, now_s)
        return now_s >= max(self._process_s, first_s) + self._settling_s
