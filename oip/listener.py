"""uvicorn's server on sockets of our own: how it begins to listen, and how it stops without losing a connection.

What belongs here: the listener's life within the process. What does not: accepting (`acceptor`), signals and the drain
before this end (`kserve_server`).

    should_exit ──▶ no new handshakes ──▶ waiting connections accepted, port closed
                ──▶ connections that have not asked anything yet are heard out, for `FIRST_REQUEST_S` at most
                ──▶ idle connections are closed, requests in flight end (uvicorn's own shutdown)

What stays is HTTP/1.1's own: a client that sends its next request on an idle connection at the moment at which it is
closed finds it reset (RFC 9112, section 9.3.1). During the drain every answer says `Connection: close`, so only clients
that were silent for all of it have such a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from oip.acceptor import Acceptor, listening
from oip.http_connection import HttpConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

HANDSHAKE_S = 0.05
"""What a handshake takes at most within a cluster; by then those under way have ended."""

FIRST_REQUEST_S = 1.0
"""How long a connection that was just accepted may take to ask something; a client that has one sends at once."""

_POLL_S = 0.02

logger = logging.getLogger(__name__)


class Listener(uvicorn.Server):
    """A uvicorn server without signal handlers of its own: whoever runs it sets `should_exit`."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the configured host and port, or on the given sockets; ends the process where that fails."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        try:
            sockets = sockets or [listening(self.config.host, self.config.port)]
        except OSError as error:
            logger.error("port %d: %s", self.config.port, error)  # noqa: TRY400 - the operator needs no traceback
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self._acceptor = Acceptor(sockets, self._connection, self.config.ssl)
        self.servers = [self._acceptor]  # type: ignore[list-item]  # closed and waited for like an asyncio.Server
        self._log_started_message(sockets)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; return when everything that was accepted has been answered."""
        self._acceptor.refuse_new()
        await asyncio.sleep(HANDSHAKE_S)
        self._acceptor.close()
        await self._acceptor.wait_closed()
        await self._hear_out()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs this."""
        yield

    async def _hear_out(self) -> None:
        """Wait for the first request of every connection that has not had one."""
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + FIRST_REQUEST_S
        while not self.force_exit and loop.time() < latest_s and self._unheard():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(_POLL_S)

    def _unheard(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(one, HttpConnection) and one.cycle is None for one in connections)

    def _connection(self) -> asyncio.BaseProtocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # `read_buffer`'s takes these
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
