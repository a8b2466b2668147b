"""A time limit on a neighbour's answer that a busy event loop does not use up.

What belongs here: the limit. What does not: what is limited.

`asyncio.timeout(0.010)` measures the wall clock. When this process is busy for 10 ms, the answer waits in the socket
while the timer is due, and the loop may serve the timer first (uvloop always does): the neighbour is blamed for our
delay. Under load this would switch the cache off just when it is needed. So the limit is cut into slices, each of which
starts when the loop has come round to the end of the one before, and an answer that has arrived is always read between.
What is made of several steps needs these rounds for each of them: waiting for a connection that is in use, then for the
answer on it. So each step has as many slices, of what is left.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

SLICES = 4
"""An answer takes two rounds of the loop from the socket to the coroutine that waits; twice as many leave it room."""


class LoopTimeLimit:
    """An asynchronous context manager that raises `TimeoutError` like `asyncio.timeout`.

    Args:
        limit_s: The limit of all steps on an idle loop; on a busy one up to four of its rounds for each step, if those
            take longer.
    """

    def __init__(self, limit_s: float) -> None:
        self._slice_s = limit_s / SLICES
        self._slice_end_s = 0.0
        self._left = SLICES
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.Handle

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._start_slice()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def next_step(self) -> None:
        """A step is done: what is left of the limit is for the next one, in as many slices again."""
        if not self._left:
            return  # the limit has just been reached, and is about to be told
        self._timer.cancel()
        slice_left_s = max(0.0, self._slice_end_s - asyncio.get_running_loop().time())
        self._slice_s = ((self._left - 1) * self._slice_s + slice_left_s) / SLICES
        self._left = SLICES
        self._start_slice()

    def _start_slice(self) -> None:
        loop = asyncio.get_running_loop()
        self._slice_end_s = loop.time() + self._slice_s
        self._timer = loop.call_later(self._slice_s, self._end_slice)

    def _end_slice(self) -> None:
        self._left -= 1
        if self._left:
            self._start_slice()
        else:
            self._timeout.reschedule(asyncio.get_running_loop().time())
