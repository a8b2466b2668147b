"""A time limit on a neighbour's answer that a busy event loop does not use up.

What belongs here: the limit. What does not: what is limited.

`asyncio.timeout(0.010)` measures the wall clock. When this process is busy for 10 ms, the answer waits in the socket
while the timer is due, and the loop may serve the timer first (uvloop always does): the neighbour is blamed for our
delay. Under load this would switch the cache off just when it is needed. So the limit is cut into slices, each of which
starts when the loop has come round to the end of the one before, and an answer that has arrived is always read between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

SLICES = 4
"""An answer takes two rounds of the loop from the socket to the coroutine that waits; twice as many leave it room."""


class LoopTimeLimit:
    """An asynchronous context manager that raises `TimeoutError` like `asyncio.timeout`.

    Args:
        limit_s: The limit on an idle loop; on a busy one up to four of its rounds, if those take longer.
    """

    def __init__(self, limit_s: float) -> None:
        self._slice_s = limit_s / SLICES
        self._left = SLICES
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._start_slice()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def _start_slice(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._slice_s, self._end_slice)

    def _end_slice(self) -> None:
        self._left -= 1
        if self._left:
            self._start_slice()
        else:
            self._timeout.reschedule(asyncio.get_running_loop().time())
