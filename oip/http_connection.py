"""One HTTP/1.1 connection: uvicorn's httptools protocol, with what it leaves open closed.

What belongs here: what happens before a request reaches an ASGI application. What does not: requests themselves
(`http`, `asgi`) and the process (`kserve_server`).

Seven things differ from uvicorn's own:

- A head (or trailer section) has limits of size and number. httptools has none and copies a header's value again for
  every packet: 100 MB of one header took 12 s of the event loop and stayed in memory.
- A head has to be complete in time. uvicorn waits for ever for the first one, and for any that has begun. (A body has
  the time budget of its request.)
- An offer to upgrade is passed over (RFC 9110 section 7.8 lets a server ignore it) instead of losing the body: Java's
  HttpClient offers h2c with every first request, POST included.
- An answer has to be taken in time, so that clients which do not read hold no memory for long.
- A body is read up to 1 MiB ahead of the application. uvicorn stops after 64 KiB and goes on rounds of the loop later,
  so that a body of 250 kB took several of them, 60 ms each under load.
- A body of known size within that limit is received where it stays (`whole_body`) instead of going through the parser.
- What the parser refuses is answered with the protocol's error object, not with plain text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from oip.errors import OipError
from oip.metadata import encode_error
from oip.whole_body import MAX_WHOLE_BYTES, WholeBody

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

MAX_HEAD_BYTES = 64 * 1024
"""Of target, names and values. Envoy's limit is 60 KiB, h11's 64."""

MAX_HEADERS = 100
"""Lines of a head, and of trailers behind it. Envoy's and Apache's default."""

HEAD_TIMEOUT_S = 10.0
"""From the connection's start, or from a later head's first byte, to the end of the head. A head fits into a few
packets; nginx allows 60 s, which is six times the sockets that a client can hold by sending nothing."""

MAX_UNREAD_BYTES = MAX_WHOLE_BYTES
"""Of a body that its application has not asked for yet; then the connection is not read from."""

FIRST_READ_BYTES = 16 * 1024
"""What is read of a connection that begins a request: heads, and the bodies that come with them. Larger bodies are
received where they stay, if their size is known."""

SEND_TIMEOUT_S = 60.0
"""For an answer that waits to be taken, from 64 KiB of it unsent to 16 KiB; uvicorn waits for ever. The largest answers
(256 outlines as GeoJSON) have about 1 MB."""

_TOO_LARGE = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes"
_NOT_CARRIED_ON = (b"upgrade", b"http2-settings")


class _HeadTooLarge(Exception):
    """Ends the parser's work, which wraps it in an error of its own; the message is for the client."""


class HttpConnection(HttpToolsProtocol):
    """Use as uvicorn's `http` option; everything that is not overridden is uvicorn's."""

    _fruitless_bytes = 0
    """Received since anything came of it: the end of a head or a part of a body."""

    _upgrade_offered = False
    """Whether the parser is about to stop behind a head that asks for another protocol."""

    _body: WholeBody | None = None
    """Of the request whose head came last, where it does not go through the parser and is incomplete."""

    _head_deadline: asyncio.TimerHandle | None = None
    """Closes the connection unless a head is complete before."""

    _send_deadline: asyncio.TimerHandle | None = None
    """Breaks the connection unless the client takes its answer before."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        super().pause_writing()
        self._send_deadline = self.loop.call_later(SEND_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._stop_sending()
        super().resume_writing()

    def room(self, buffer: memoryview) -> memoryview:
        """Where the next read goes.

        Args:
            buffer: For what is to be given to `data_received`.

        Returns:
            `buffer` or its beginning; or else the place of a body, and then the read is for `body_received`.
        """
        if self._body is not None:
            return self._body.room
        within_a_body = self.cycle is not None and self.cycle.more_body
        return buffer if within_a_body else buffer[:FIRST_READ_BYTES]

    @property
    def receives_body(self) -> bool:
        """Whether `room` is the place of a body."""
        return self._body is not None

    def body_received(self, size: int) -> None:
        """So many bytes of a body were written to `room`."""
        self._unset_keepalive_if_required()
        if self._body is not None:
            self._body.arrived(size)
            self._body_has_grown(self._body)

    def data_received(self, data: bytes | memoryview) -> None:
        """Take what came; nothing refers to it afterwards."""
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        if self._body is not None:
            rest = rest[self._body.put(rest) :]
            self._body_has_grown(self._body)
        if rest:
            self._parse(rest)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of a head, or of trailers."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise _HeadTooLarge(f"the request has more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """A head is complete; one with an offer to upgrade is parsed once more without it."""
        self._fruitless_bytes = 0
        self._stop_waiting()
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > MAX_HEAD_BYTES:
            raise _HeadTooLarge(_TOO_LARGE)
        self._upgrade_offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._upgrade_offered:
            super().on_headers_complete()
            self._body = self._body_to_come()

    def on_body(self, body: bytes) -> None:
        """A part of a body; what comes after the answer is passed over."""
        self._fruitless_bytes = 0
        if self._body is not None:
            self._body.put(body)
            return
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > MAX_UNREAD_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request is complete; one with an offer to upgrade only seems so."""
        if self._upgrade_offered:
            return
        body, self._body = self._body, None
        if body is not None and not self.cycle.response_complete:
            self.cycle.body = body  # type: ignore[assignment]  # uvicorn asks it for its bytes and nothing else
        super().on_message_complete()

    def _body_to_come(self) -> WholeBody | None:
        """The body behind the head that was just read, if it is better received where it stays."""
        for name, value in self.headers:
            if name == b"content-length":  # the parser takes only one, a number, and no Transfer-Encoding beside it
                size = int(value)
                return WholeBody(size) if FIRST_READ_BYTES < size <= MAX_UNREAD_BYTES else None
        return None

    def _body_has_grown(self, body: WholeBody) -> None:
        """When it is complete, go on with a new parser: the old one waits for what never went through it."""
        if not body.missing:
            self.on_message_complete()
            self.parser = self._new_parser()
        self._limit_wait()

    def _parse(self, data: memoryview) -> None:
        self._fruitless_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLarge):
                self._refuse(431, str(error.__context__))
            else:
                self._refuse(400, "this is not a valid HTTP request")
        else:
            if self._fruitless_bytes > MAX_HEAD_BYTES:
                self._refuse(431, _TOO_LARGE)
            else:
                self._limit_wait()

    def _feed(self, rest: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stop:
                if not self._upgrade_offered:
                    return
                rest = rest[stop.args[0] :]
                self._begin_again()
            else:
                return

    def _begin_again(self) -> None:
        """Hand the same head without the offer to a new parser, since the old one takes nothing more."""
        head = b"".join(self._head_without_upgrade())
        self.parser = self._new_parser()
        self.parser.feed_data(head)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn makes its own
        return parser

    def _head_without_upgrade(self) -> Iterator[bytes]:
        version = self.parser.get_http_version().encode()
        yield b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        for name, value in self.headers:
            if name not in _NOT_CARRIED_ON:
                yield b"%s: %s\r\n" % (name, value)
        yield b"\r\n"

    def _is_idle(self) -> bool:
        """Whether no request is being answered, so that whatever comes has no other time limit."""
        return self.cycle is None or self.cycle.response_complete

    def _limit_wait(self) -> None:
        if self._head_deadline is None and self._is_idle():
            self._await_head()

    def _await_head(self) -> None:
        self._head_deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _stop_sending(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _head_is_late(self) -> None:
        if self._fruitless_bytes:
            self._refuse(408, f"the head of the request was not complete within {HEAD_TIMEOUT_S:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; only close where an answer to an earlier request is still on its way."""
        self._stop_waiting()
        if self._is_idle():
            body = encode_error(OipError(message))
            headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + headers + body)
        self.transport.close()
