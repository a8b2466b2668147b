"""Connections to Redis, kept open and lent to one caller at a time.

What belongs here: opening, lending, taking back. What does not: commands (`redis_store`).

redis-py's own pools wait inside `release`, so that a caller who is cancelled there loses a connection for good, and
they connect within the caller's time. Here taking back never waits, and connecting goes on when the caller has lost
patience: a TLS handshake takes longer than a request may wait for the cache, and the next request finds it done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from transformer.answer_store import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

IDLE_S = 30.0
"""How long a connection stays open unused; one does for ever, so that a rare request finds it."""


class RedisConnections:
    """Lends connections; the one returned last is lent first, so that the surplus of a burst falls asleep
    and is closed.

    Args:
        make: Makes a connection that is not connected yet.
        limit: Most connections at a time.
        connect_timeout_s: For connecting, handshakes and login included.
        faults: The errors that connecting is expected to fail with.
        idle_s: How long a connection stays open unused.
    """

    def __init__(
        self,
        make: Callable[[], AbstractConnection],
        *,
        limit: int,
        connect_timeout_s: float,
        faults: tuple[type[Exception], ...],
        idle_s: float = IDLE_S,
    ) -> None:
        self._make = make
        self._limit = limit
        self._connect_timeout_s = connect_timeout_s
        self._faults = faults
        self._idle_s = idle_s
        self._all: list[AbstractConnection] = []
        # With the time since when each is idle, the longest first.
        self._idle: deque[tuple[float, AbstractConnection]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._broken: list[AbstractConnection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[AbstractConnection]] = deque()

    async def borrow(self) -> AbstractConnection:
        """A connection with nothing left to read on it; waits for one if it must. Raises `StoreFailed`."""
        while self._idle:
            _, connection = self._idle.pop()
            if not await connection.can_read():
                return connection
            await self.discard(connection)  # closed by the other side, or there is a reply that nobody asked for
        waiter: asyncio.Future[AbstractConnection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._connect_more()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._no_longer_waits(waiter)
            raise

    def give_back(self, connection: AbstractConnection) -> None:
        """Take back a connection whose replies have all been read."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        loop = asyncio.get_running_loop()
        self._idle.append((loop.time(), connection))
        if self._sweep is None and len(self._idle) > 1:
            self._sweep = loop.call_later(self._idle_s, self._close_old)

    async def discard(self, connection: AbstractConnection) -> None:
        """Take back a connection that may not be used as it is, and close it; does not wait."""
        await connection.disconnect(nowait=True)
        self._broken.append(connection)
        self._connect_more()

    async def close(self) -> None:
        """Close every connection; those still waiting for one get `StoreFailed`."""
        self._limit = 0
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, *self._retiring, return_exceptions=True)
        self._fail_waiting(StoreFailed("Redis: closed"))
        for connection in self._all:
            await connection.disconnect(nowait=True)
        self._idle.clear()

    def _close_old(self) -> None:
        """Close what a burst has left, but for the connection that was used last; come again for what is younger."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        old: list[AbstractConnection] = []
        while len(self._idle) > 1 and self._idle[0][0] + self._idle_s <= loop.time():
            old.append(self._idle.popleft()[1])
        if old:
            task = loop.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if len(self._idle) > 1:
            self._sweep = loop.call_at(self._idle[0][0] + self._idle_s, self._close_old)

    async def _retire(self, connections: list[AbstractConnection]) -> None:
        for connection in connections:
            await connection.disconnect(nowait=True)
            self._broken.append(connection)

    def _connect_more(self) -> None:
        """Connect as many more as there are waiting, within the limit."""
        in_use = len(self._all) - len(self._broken)
        for _ in range(min(len(self._waiting) - len(self._connecting), self._limit - in_use)):
            task = asyncio.create_task(self._connect(self._unconnected()))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _unconnected(self) -> AbstractConnection:
        # Connections are used again and again, because each one of TLS loads the certificates when it is made.
        if self._broken:
            return self._broken.pop()
        connection = self._make()
        self._all.append(connection)
        return connection

    async def _connect(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py left it without types
        except self._faults as error:
            await connection.disconnect(nowait=True)
            self._broken.append(connection)
            self._fail_waiting(StoreFailed(f"Redis: cannot connect: {type(error).__name__}: {error}"))
        else:
            self.give_back(connection)

    def _fail_waiting(self, failure: StoreFailed) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(failure)

    def _no_longer_waits(self, waiter: asyncio.Future[AbstractConnection]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif not waiter.cancelled() and not waiter.exception():
            self.give_back(waiter.result())
