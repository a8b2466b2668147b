"""One connection to a server: a request out, its answer in, one at a time.

What belongs here: the life of one connection, and telling the ways in which it dies apart. What does not: which
connection a request takes (`http_client`), and the bytes of an answer (`http_answer`).

A server may close an idle connection at the moment at which a request leaves for it (RFC 9112, section 9.3.1). Whatever
has arrived by then is seen by a look at the socket before the request; what is still on its way is not.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

from transformer.http_answer import AnswerReader, BadAnswer, HttpAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Disconnected(Exception):
    """The connection died before the answer was complete.

    Args:
        answer_begun: Whether some of the answer had come; if not, nothing says that the server has seen the request.
        reused: Whether the connection had served before; then it may have been closed for being idle.
    """

    def __init__(self, message: str, *, answer_begun: bool, reused: bool) -> None:
        super().__init__(message)
        self.answer_begun = answer_begun
        self.reused = reused


class Connection(asyncio.BufferedProtocol):
    """A connection in the hands of at most one request.

    Args:
        buffer: Where the transport reads to. All connections of an event loop may share it, as what it holds is parsed
            before anybody else gets it.
        lost: Called when the connection is gone.
    """

    def __init__(self, buffer: memoryview, lost: Callable[[Connection], None]) -> None:
        self._buffer = buffer
        self._lost = lost
        self._reader = AnswerReader()
        self._waiter: asyncio.Future[HttpAnswer] | None = None
        self._transport: asyncio.Transport
        self._incoming = select.poll()
        self._reused = False

    async def exchange(self, request: Sequence[bytes | memoryview], timeout_s: float) -> HttpAnswer:
        """Send a request and wait for its answer; a connection that is not reusable then is closed.

        Args:
            request: The head and, in any number of parts, the body. They are not joined.
            timeout_s: For all of it.

        Raises:
            Disconnected: The connection died.
            BadAnswer: What came is no answer.
            TimeoutError: The time is up.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[HttpAnswer] = loop.create_future()
        self._waiter = waiter
        self._reader.reset()
        timer = loop.call_later(timeout_s, self._fail, TimeoutError())
        self._transport.writelines(request)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            self._reused = True
            if not self.reusable:
                self._transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent here, as far as the last answer tells."""
        # A server that answers before it has read everything will not read the rest as a request of its own.
        return (
            self._reader.reusable
            and self._reader.answer is not None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    @property
    def alive(self) -> bool:
        """Whether nothing has arrived since the last answer: neither the end of the connection nor anything else."""
        return not self._transport.is_closing() and not self._incoming.poll(0)

    def close(self) -> None:
        """Drop the connection; an exchange under way fails."""
        self._transport.abort()

    # --- what the transport calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises one that reads and writes
        self._incoming.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the same buffer whatever is expected
        """Where the transport reads to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come; an idle connection has nothing to hear."""
        if self._waiter is None:
            self._transport.abort()
            return
        try:
            self._reader.feed(self._buffer[:nbytes])
        except BadAnswer as error:
            self._fail(error)
        else:
            self._succeed()

    def eof_received(self) -> None:
        """The server will send nothing more; the transport then closes by itself."""
        self._reader.end()
        self._succeed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost(self)
        reason = f"the connection died: {exc}" if exc else "the connection was closed"
        self._fail(Disconnected(reason, answer_begun=self._reader.begun, reused=self._reused))

    def _succeed(self) -> None:
        answer = self._reader.answer
        if answer is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
