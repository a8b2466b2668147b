"""When a request's own work is done, and where: in the event loop, a few requests in each of its rounds, or a thread.

What belongs here: order and place. What does not: the work (`computation`, `cache_key`).

A capture's features take about a millisecond. Handing that to a thread cost 0.35 ms of CPU on top, because the thread
and the event loop then take the interpreter's lock from each other at every call of NumPy, and a busy loop gives it up
only every 5 ms (`sys.setswitchinterval`). So small work is done in the loop, and larger work in a thread.

Everything that the loop does in one round waits for each other. Without a limit a hundred requests that came together
would all begin in one round, and the answer of the predictor to the first of them would lie there until the last has
begun: a miss takes three rounds and a hit one. So only a few begin in each round, in the order of their arrival; what
has begun goes on first, and everybody waits about equally long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from oip.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

BEGUN_IN_A_ROUND = 4
"""Requests that begin in one round of the loop: 2 ms of hits or 6 ms of misses."""

INLINE_SAMPLES = 1 << 16
"""Complex samples whose features are computed in the loop: two captures of [7, 4480], about 2.5 ms."""

RETRY_AFTER_S = 1
"""A queue of a hundred requests is gone within a second."""


class Turns:
    """Lets requests begin, some in each round of the event loop. For one event loop.

    Args:
        max_waiting: More are refused at once.
        in_a_round: How many begin in one round.
    """

    def __init__(self, *, max_waiting: int, in_a_round: int = BEGUN_IN_A_ROUND) -> None:
        self._max_waiting = max_waiting
        self._in_a_round = in_a_round
        self._left = in_a_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counting = False

    async def wait(self, watch: Callable[[asyncio.Future[Any]], None] | None = None) -> None:
        """Return when it is this request's turn: at once, unless others came in this round or are waiting.

        Args:
            watch: Makes what is waited for fail when the client has gone (`oip.messages.CallContext`). Without that a
                load that has ended would keep its places, and the next one be refused.

        Raises:
            Unavailable: Too many are waiting.
        """
        loop = asyncio.get_running_loop()
        if not self._counting:
            self._counting = True
            loop.call_soon(self._next_round, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("too many requests are waiting", retry_after_s=RETRY_AFTER_S)
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if watch is not None:
            watch(turn)
        try:
            await turn
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        woken = 0
        while woken < self._in_a_round and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its request has not given up in this very round
                turn.set_result(None)
                woken += 1
        # Those just woken go on in the round to come; nobody who comes until then begins before them.
        self._left = 0 if woken else self._in_a_round
        self._counting = woken > 0
        if woken:
            loop.call_soon(self._next_round, loop)


class Processing:
    """Does the work of requests.

    Args:
        threads: For large work. NumPy releases the interpreter's lock in it: a thread a core is enough.
        max_waiting: Requests that may wait for their turn, and as many that may wait for a thread.
    """

    def __init__(self, *, threads: int, max_waiting: int) -> None:
        self.turns = Turns(max_waiting=max_waiting)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dsp")
        self._most_working = threads + max_waiting
        self._working = 0

    async def features(self, samples: int, work: Callable[[], Result]) -> Result:
        """The result of work on so many complex samples; raises `Unavailable` like `in_thread`."""
        return work() if samples <= INLINE_SAMPLES else await self.in_thread(work)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of work done by a thread.

        Raises:
            Unavailable: Too much is waiting for one already.
        """
        if self._working >= self._most_working:
            raise Unavailable("the queue for signal processing is full", retry_after_s=RETRY_AFTER_S)
        self._working += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._working -= 1

    def stop(self) -> None:
        """Begin no more work in threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
