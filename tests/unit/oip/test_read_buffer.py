from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from oip.http import read_body, send_response
from oip.read_buffer import READ_BYTES, ReadBuffer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from oip.http import Receive, Scope, Send

LIMIT_BYTES = 8 * READ_BYTES


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body."""
    await send_response(send, 200, await read_body(scope, receive, LIMIT_BYTES))


@asynccontextmanager
async def _listening() -> AsyncIterator[tuple[int, ServerState]]:
    """A listener on a free port whose connections share one buffer."""
    buffer, state = ReadBuffer(), ServerState()
    config = uvicorn.Config(_echo, ws="none", log_config=None, access_log=False, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: buffer.connection(config, state, {}, loop), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], state
    finally:
        server.close()


async def _exchange(port: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 300_000):
        writer.write(body[start : start + 300_000])
        await writer.drain()
        await asyncio.sleep(0)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    answer = await reader.readexactly(len(body))
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_connections_that_share_the_buffer(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Bodies that arrive at the same time, some larger than the buffer, are not mixed, on either event loop."""
    bodies = [
        bytes([index]) * size for index, size in enumerate([1, 1000, 300_000, READ_BYTES, 3 * READ_BYTES + 1] * 3)
    ]

    async def exchange_all() -> list[bytes]:
        async with _listening() as (port, state):
            answers = await asyncio.gather(*(_exchange(port, body) for body in bodies))
            async with asyncio.timeout(5):
                while state.connections:  # noqa: ASYNC110 - uvicorn's set, which tells nobody that it is empty
                    await asyncio.sleep(0.01)
            return answers

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(exchange_all()) == bodies


def test_what_remains_refers_to_nothing_in_the_buffer() -> None:
    """A body still unread when the buffer is filled anew is what was sent."""

    async def received() -> bytes:
        body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def late(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(0)
            body.set_result(await read_body(scope, receive, LIMIT_BYTES))
            await send_response(send, 200, b"")

        config = uvicorn.Config(late, ws="none", log_config=None, access_log=False, lifespan="off")
        config.load()
        state: dict[str, Any] = {}
        connection = ReadBuffer().connection(config, ServerState(), state, asyncio.get_running_loop())
        connection.connection_made(_Wire())
        text = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsent"
        connection.get_buffer(-1)[: len(text)] = text
        connection.buffer_updated(len(text))
        connection.get_buffer(-1)[: len(text)] = b"?" * len(text)
        return await body

    assert asyncio.run(received()) == b"sent"


class _Wire(asyncio.Transport):
    """A transport to nobody."""

    def write(self, data: object) -> None:
        """Drop it."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to close."""
