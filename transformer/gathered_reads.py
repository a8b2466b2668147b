"""Reads of a store that begin in the same round of the event loop, made as one.

What belongs here: gathering, and giving everybody his own. What does not: the read itself and its time limit
(`redis_store`).

Under load a round of the loop takes many requests on, and each asks the store. One by one they need a connection each,
and when those run out the rest wait for rounds of a busy loop, which looks as if the store were slow; and the store is
woken for each of them. Together they need one connection and one answer. A read that meets no other is made as it is,
because a task more would be a twentieth of what its request takes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Entries = Sequence[bytes | None]
    Read = Callable[[Sequence[bytes]], Awaitable[Entries]]


class GatheredReads:
    """Reads for many with one call.

    Args:
        read: Gives the entries of some keys, in their order.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._asked: list[tuple[Sequence[bytes], asyncio.Future[Entries]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = 0

    async def get(self, keys: Sequence[bytes]) -> Entries:
        """The entries of these keys in their order; raises what the one read does.

        Who is cancelled ends nobody else's read.
        """
        if not self._reading and not self._asked:
            return await self._counted(keys)
        if not self._asked:
            # A task takes its first step behind everything that is ready now, so all of that can still join.
            task = asyncio.create_task(self._read_gathered())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        told: asyncio.Future[Entries] = asyncio.get_running_loop().create_future()
        self._asked.append((keys, told))
        return await told

    async def _counted(self, keys: Sequence[bytes]) -> Entries:
        self._reading += 1
        try:
            return await self._read(keys)
        finally:
            self._reading -= 1

    async def _read_gathered(self) -> None:
        asked, self._asked = [(keys, told) for keys, told in self._asked if not told.done()], []
        if not asked:
            return
        try:
            entries = await self._counted([key for keys, _ in asked for key in keys])
        except Exception as error:  # noqa: BLE001 - everybody who asked gets it
            for _, told in asked:
                if not told.done():
                    told.set_exception(error)
        else:
            end = 0
            for keys, told in asked:
                begin, end = end, end + len(keys)
                if not told.done():
                    told.set_result(entries[begin:end])
        finally:
            for _, told in asked:
                told.cancel()  # where this was cancelled itself; otherwise they are all done
