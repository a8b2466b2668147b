"""Work on large bodies, which leaves the event loop for a thread.

What belongs here: what is large, the threads, and the queue before them. What does not: the work (`codec`, `http`).

Whoever waits for a thread holds a body. So the queue is the event loop's and not the executor's: a request whose client
has gone leaves it at once. A hundred requests of 1.4 MB that a load generator had dropped kept 140 MB and the threads
for half a second, so that the next hundred were refused.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

INLINE_BYTES = 1024 * 1024
"""Work on bodies larger than this leaves the event loop for a thread. The JSON parsers hold the GIL while they parse
(1.2 ms for so much text), so that a thread does not free the loop of that, and costs 100 µs of CPU; what comes before
and after (inflating, converting, elements of BYTES) does not hold it."""

THREADS = 2
"""Two at once: the parsers need the GIL anyway, and their memory, up to 18 times the text, then is needed twice at
most."""


async def off_loop(
    size: int,
    watch: Callable[[asyncio.Future[Any]], None] | None,
    function: Callable[_P, _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T:
    """Call a function; in a thread if what it works on would hold up the event loop.

    Args:
        size: Of what it works on, in bytes.
        watch: Makes what is waited for fail when the client has gone (`messages.CallContext`); None where nobody can
            tell.
        function: The work.
        args: For the function.
        kwargs: For the function.
    """
    if size <= INLINE_BYTES:
        return function(*args, **kwargs)
    await _places.take(watch)
    try:
        work = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(_threads, work)
    finally:
        _places.give_back()


class Places:
    """As many as there are, taken in the order of arrival. For one event loop at a time.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, watch: Callable[[asyncio.Future[Any]], None] | None = None) -> None:
        """Return with a place; raises what `watch` lets the waiting fail with."""
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        if watch is not None:
            watch(place)
        try:
            await place
        except BaseException:
            if place in self._waiting:
                self._waiting.remove(place)
            elif not place.cancelled() and place.exception() is None:
                self.give_back()  # it was given in the very round in which the waiting was cancelled
            raise

    def give_back(self) -> None:
        """Give the place to whoever has waited longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="body")
_places = Places(THREADS)
