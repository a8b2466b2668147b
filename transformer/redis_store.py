"""The store that the processes of a transformer share: one standalone Redis, or any server that speaks RESP2.

What belongs here: the two commands and their time limits. What does not: connections (`redis_connections`), the
entries' content, and what follows from a failure (`answer_cache`).

Redis replies in the order of the commands, and nothing in a reply says what it answers. So a connection on which
anything went wrong between a command and its last reply, a cancellation included, is closed and never lent as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from transformer.answer_store import StoreFailed
from transformer.gathered_reads import GatheredReads
from transformer.loop_time_limit import LoopTimeLimit
from transformer.redis_connections import RedisConnections

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from redis.asyncio.connection import AbstractConnection

    from transformer.redis_address import RedisAddress

Result = TypeVar("Result")

FAULTS = (RedisError, OSError, ValueError, TypeError, AttributeError, EOFError, RecursionError, MemoryError)
"""What redis-py raises when Redis is away, and, from the third on, when something else answers in its place with bytes
that no Redis sends: its parser trusts lengths, types and depths."""

_LONGEST_MESSAGE = 200


class RedisStore:
    """Reads with one MGET for all that ask at the same time, writes with one pipeline of SETs.

    Args:
        address: Where Redis is.
        ttl_s: How long an entry lives.
        read_timeout_s: For one read, waiting for a connection included: what a slow Redis may cost a request.
        write_timeout_s: For one write, which no request waits for.
        connect_timeout_s: For connecting, which goes on behind the requests.
        max_connections: Most connections of this process; writes use half of them at most, so that no read waits for
            one behind them.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        ttl_s: int,
        read_timeout_s: float = 0.010,
        write_timeout_s: float = 0.100,
        connect_timeout_s: float = 1.0,
        max_connections: int = 32,
    ) -> None:
        self._ttl_s = str(ttl_s).encode()
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._connections = RedisConnections(
            connection_maker(address), limit=max_connections, connect_timeout_s=connect_timeout_s, faults=FAULTS
        )
        self._reads = GatheredReads(self._read)
        self._writes = asyncio.Semaphore(max(1, max_connections // 2))

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The entries of these keys, None where there is none; raises `StoreFailed`."""
        return await self._reads.get(keys)

    async def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async def read(connection: AbstractConnection) -> list[bytes | None]:
            await connection.send_command("MGET", *keys)
            return _bulk_strings(await connection.read_response(), len(keys))

        return await self._exchange(read, self._read_timeout_s)

    async def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries; raises `StoreFailed` when any was refused, for example for want of memory."""

        async def write(connection: AbstractConnection) -> list[ResponseError]:
            commands = [("SET", key, value, "EX", self._ttl_s) for key, value in entries.items()]
            await connection.send_packed_command(connection.pack_commands(commands))
            return [refusal for _ in commands if (refusal := await _refusal(connection))]

        async with self._writes:
            refusals = await self._exchange(write, self._write_timeout_s)
        if refusals:
            raise _failure(refusals[0])

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def _exchange(self, talk: Callable[[AbstractConnection], Awaitable[Result]], limit_s: float) -> Result:
        try:
            async with LoopTimeLimit(limit_s) as limit:
                connection = await self._connections.borrow()
                limit.next_step()
                try:
                    result = await talk(connection)
                except BaseException:
                    await self._connections.discard(connection)
                    raise
                self._connections.give_back(connection)
                return result
        except FAULTS as error:
            raise _failure(error) from error


def connection_maker(address: RedisAddress) -> Callable[[], AbstractConnection]:
    """Makes connections that are not connected yet."""
    arguments: dict[str, Any] = {  # of as many types as members; redis-py checks them
        "db": address.db,
        "username": address.username or None,
        "password": address.password or None,
        # RESP2 without the library's name has the shortest handshake. Time limits and retries are this module's.
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.path:
        return lambda: UnixDomainSocketConnection(path=address.path, **arguments)
    arguments |= {"host": address.host, "port": address.port}
    if not address.tls:
        return lambda: Connection(**arguments)
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        arguments[name] = getattr(address, name) or None
    return lambda: SSLConnection(**arguments)


async def _refusal(connection: AbstractConnection) -> ResponseError | None:
    """What Redis had against one command; the replies to those behind it have to be read in any case."""
    try:
        await connection.read_response()
    except ResponseError as refusal:
        return refusal
    return None


def _bulk_strings(reply: object, count: int) -> list[bytes | None]:
    if not isinstance(reply, list) or len(reply) != count:
        raise ValueError("the reply to MGET is no list of as many values as keys")
    if not all(value is None or isinstance(value, bytes) for value in reply):
        raise ValueError("the reply to MGET holds something else than strings")
    return reply


def _failure(error: BaseException) -> StoreFailed:
    text = str(error) or "no answer in time"
    return StoreFailed(f"{type(error).__name__}: {text[:_LONGEST_MESSAGE]}")
