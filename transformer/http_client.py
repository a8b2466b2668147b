"""A pooled HTTP/1.1 client for small answers to large requests: an exchange costs what its bytes cost.

What belongs here: where an origin is, which connection a request takes, and how long an idle one is kept. What does
not: one connection (`http_exchange`), and what is asked and answered (`predictor_client`).

There are no redirects, cookies, proxies, compression or HTTP/2: between two services of one cluster nobody asks for
them. aiohttp's client, which can all that, took 0.36 ms of CPU for an exchange of 115 kB.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from transformer.http_exchange import Connection
from transformer.name_lookup import NameLookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformer.http_answer import HttpAnswer

IDLE_S = 30.0
"""How long an unused connection is kept; below what servers keep one (65 s here), so that they seldom close first."""

MAX_IDLE = 128
"""Unused connections kept for each origin, the latest ones; as many as a transformer answers at once."""

_READ_BYTES = 64 * 1024


class Unconnected(Exception):
    """No connection could be opened: the name is unknown, nobody listens, TLS failed, or it took too long."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who is called.

    Attributes:
        host: Name or address, an IPv6 address without brackets.
        port: TCP port.
        secure: Whether TLS is spoken.
        authority: The value of the header Host (RFC 9110, section 7.2).
    """

    host: str
    port: int
    secure: bool
    authority: str


@lru_cache(maxsize=64)
def origin_of(base_url: str) -> Origin:
    """The origin of a URL without a path; raises `ValueError` where it is none of HTTP."""
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{base_url!r} is no http:// or https:// URL")
    secure = parts.scheme == "https"
    ordinary = 443 if secure else 80
    port = parts.port or ordinary
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Origin(parts.hostname, port, secure, host if port == ordinary else f"{host}:{port}")


class HttpClient:
    """Opens connections when they are needed and uses them again. For one event loop.

    Args:
        connect_timeout_s: For opening a connection: looking up the name, every address of it, and TLS.
        idle_s: How long an unused connection is kept.
        max_idle: How many of them for each origin.
    """

    def __init__(self, *, connect_timeout_s: float, idle_s: float = IDLE_S, max_idle: int = MAX_IDLE) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._names = NameLookup()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._tls: ssl.SSLContext | None = None
        self._open: set[Connection] = set()
        # Since when each is idle, the longest first; the last one is taken first.
        self._idle: dict[Origin, dict[Connection, float]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, origin: Origin, request: Sequence[bytes | memoryview], timeout_s: float) -> HttpAnswer:
        """Send a request and wait for its answer.

        Args:
            origin: Who is called.
            request: Head and body in any number of parts.
            timeout_s: For everything, opening a connection included.

        Raises:
            Unconnected: The request was not sent.
            Disconnected: The connection died before the answer was complete.
            BadAnswer: What came is no answer.
            TimeoutError: The time is up.
        """
        loop = asyncio.get_running_loop()
        connection = self._idle_one(origin)
        if connection is None:
            latest_s = loop.time() + timeout_s
            connection = await self._opened(origin, timeout_s)
            timeout_s = max(0.0, latest_s - loop.time())
        answer = await connection.exchange(request, timeout_s)
        if connection.reusable:
            self._keep(origin, connection, loop)
        return answer

    async def close(self) -> None:
        """Close every connection; the next exchange would open a new one."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # the transports close in the loop's next round

    # --- idle connections -------------------------------------------------------------------------------------------

    def _idle_one(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()
            if connection.alive:
                return connection
            connection.close()
        return None

    def _keep(self, origin: Origin, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        idle = self._idle.setdefault(origin, {})
        idle[connection] = loop.time()
        if len(idle) > self._max_idle:
            longest = next(iter(idle))
            del idle[longest]
            longest.close()
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._close_old)

    def _close_old(self) -> None:
        """Close what was idle for too long, and come again when the next one will have been."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        for origin, idle in tuple(self._idle.items()):
            for connection, since_s in tuple(idle.items()):
                if since_s + self._idle_s > loop.time():
                    break
                del idle[connection]
                connection.close()
            if not idle:
                del self._idle[origin]
        if self._idle:
            oldest_s = min(next(iter(idle.values())) for idle in self._idle.values())
            self._sweep = loop.call_at(oldest_s + self._idle_s, self._close_old)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        for idle in self._idle.values():
            idle.pop(connection, None)

    # --- new connections --------------------------------------------------------------------------------------------

    async def _opened(self, origin: Origin, timeout_s: float) -> Connection:
        """A new connection; `TimeoutError` only where the exchange itself leaves less time than connecting may take."""
        limit_s = min(self._connect_timeout_s, timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                return await self._connected(origin, limit_s)
        except TimeoutError as error:
            if limit_s < self._connect_timeout_s:
                raise
            raise Unconnected(f"{origin.authority} did not take a connection within {limit_s:g} s") from error
        except OSError as error:
            raise Unconnected(f"{origin.authority} takes no connection: {error}") from error

    async def _connected(self, origin: Origin, limit_s: float) -> Connection:
        """A connection to the first address that takes one; each address may use its part of the time."""
        addresses = await self._names.addresses(origin.host, origin.port)
        failure: OSError = OSError("the name has no address")
        for address in addresses:
            try:
                async with asyncio.timeout(limit_s / len(addresses)):
                    return await self._connection(origin, address)
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure

    async def _connection(self, origin: Origin, address: str) -> Connection:
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._buffer, self._lost),
            address,
            origin.port,
            ssl=self._tls if origin.secure else None,
            server_hostname=origin.host if origin.secure else None,
        )
        self._open.add(connection)
        return connection
