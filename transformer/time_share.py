"""The predictor's share of a request's time (cache < predictor < request).

What belongs here: when a call of the predictor has to be over. What does not: the request's own deadline (`oip.http`),
and what is done when time is up.
"""

from __future__ import annotations

import time

RESERVE_S = 0.02
"""What is left of a request's time for everything after the call: a batch of answers and a busy event loop take some
milliseconds. A call that ended with the request would be cancelled with it, and nobody would count that it hung."""

LARGEST_RESERVE = 0.25
"""Of the time that is left, so that a small budget still is one for the predictor."""


def predictor_deadline_s(deadline_s: float, longest_s: float) -> float:
    """When the predictor has to have answered, on the clock of `time.monotonic()`.

    Args:
        deadline_s: The request's, on that clock.
        longest_s: What a call may take at most.
    """
    now_s = time.monotonic()
    left_s = deadline_s - now_s
    return now_s + min(longest_s, left_s - min(RESERVE_S, LARGEST_RESERVE * left_s))
