"""Reading from a socket into memory that is there already.

What belongs here: the way of the bytes from the transport to an HTTP connection. What does not: what they mean
(`http_connection`).

A plain protocol is handed new `bytes` for every read of at most 256,000, and a body in two reads is copied three times
until it is in one piece. A buffered one (`asyncio.BufferedProtocol`) says where to read to: into the body itself, where
the connection knows one. All else goes to one buffer for all connections of an event loop, as a connection has parsed
what it was told of before it returns.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING

from oip.http_connection import HttpConnection

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

READ_BYTES = 1024 * 1024
"""The most that one read takes into the shared buffer."""


class ReadBuffer:
    """Makes the connections of one event loop: `ReadBuffer().connection` is uvicorn's `http` option."""

    def __init__(self) -> None:
        self._view = memoryview(mmap.mmap(-1, READ_BYTES))  # pages that are never used cost nothing

    def connection(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> _BufferedConnection:
        """The protocol of a connection; uvicorn gives the arguments, by these names."""
        return _BufferedConnection(HttpConnection(config, server_state, app_state, _loop), self._view)


class _BufferedConnection(asyncio.BufferedProtocol):
    """Hands what was read to an `HttpConnection`, and all other events as they are."""

    def __init__(self, connection: HttpConnection, view: memoryview) -> None:
        self._view = view
        self._connection = connection
        self.connection_made = connection.connection_made  # type: ignore[method-assign,assignment]  # passed on as is
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]  # passed on as is
        self.eof_received = connection.eof_received  # type: ignore[method-assign]  # passed on as is
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]  # passed on as is
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]  # passed on as is

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the same whatever is expected
        """Where the transport reads to; it never takes more of a body's place than the body needs."""
        return self._connection.room(self._view)

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what came; nothing refers to the shared buffer afterwards."""
        if self._connection.receives_body:
            self._connection.body_received(nbytes)
        else:
            self._connection.data_received(self._view[:nbytes])
