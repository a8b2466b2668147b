"""A link between two processes that can be made slow, or unreliable, while it is used.

What belongs here: passing bytes on, and what can go wrong with them. What does not: packets. Packets that are lost or
late show to a program as silence, which `Disturbance.delay_s` makes; real losses are made by the kernel (`kernel`).
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_CHUNK_BYTES = 1 << 16
_START_S = 10.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens to the bytes of a link.

    Attributes:
        delay_s: Every chunk (of at most 64 KiB) comes so much later, in both directions,
        jitter_s: and up to so much more.
        reset: Probability that a connection is reset instead of passing on a chunk to the server.
        cut_after_bytes: The connection ends after so many bytes of answers; None: never.
        garbage: Answered to everything instead of asking the server; None: the server is asked.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    reset: float = 0.0
    cut_after_bytes: int | None = None
    garbage: bytes | None = None


NONE = Disturbance()


class Proxy:
    """Passes connections to a port on to another port of this machine.

    Args:
        server_port: The other one.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.disturbance = NONE
        self._server_port = server_port
        self._random = random.Random(1)  # noqa: S311 - faults, no secrets

    @contextmanager
    def disturbed(self, disturbance: Disturbance) -> Iterator[None]:
        """The link is disturbed in the block."""
        self.disturbance = disturbance
        yield
        self.disturbance = NONE

    async def serve(self, ready: threading.Event, ended: asyncio.Event) -> None:
        """Pass on until told to end."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        self.port = int(server.sockets[0].getsockname()[1])
        ready.set()
        await ended.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # either side may hang up; the proxy may end
            if self.disturbance.garbage is not None:
                await reader.read(_CHUNK_BYTES)
                writer.write(self.disturbance.garbage)
                await writer.drain()
            else:
                own_reader, own_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
                try:
                    await _either(self._ask(reader, own_writer), self._answer(own_reader, writer))
                finally:
                    own_writer.transport.abort()
        writer.transport.abort() if self.disturbance != NONE else writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if self._random.random() < self.disturbance.reset or self.disturbance.garbage is not None:
                return
            await self._pass(chunk, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed_bytes = 0
        while chunk := await reader.read(_CHUNK_BYTES):
            cut = self.disturbance.cut_after_bytes
            if cut is not None and passed_bytes + len(chunk) > cut:
                await self._pass(chunk[: max(0, cut - passed_bytes)], writer)
                return
            await self._pass(chunk, writer)
            passed_bytes += len(chunk)

    async def _pass(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        one = self.disturbance
        if one.delay_s or one.jitter_s:
            await asyncio.sleep(one.delay_s + one.jitter_s * self._random.random())
        writer.write(chunk)
        await writer.drain()


async def _either(*directions: Coroutine[None, None, None]) -> None:
    """Both directions until one of them ends, which ends the other."""
    tasks = [asyncio.create_task(one) for one in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


@contextmanager
def proxied(server_port: int) -> Iterator[Proxy]:
    """A proxy that runs in a thread of its own."""
    proxy, ready, loop, ended = Proxy(server_port), threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        await proxy.serve(ready, ended)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name=f"proxy to {server_port}")
    thread.start()
    try:
        if not ready.wait(_START_S):
            raise TimeoutError("the proxy does not start")
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
