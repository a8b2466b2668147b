"""One HTTP/1.1 connection: uvicorn's httptools protocol, with what it leaves open closed.

What belongs here: what happens before a request reaches an ASGI application. What does not: requests themselves
(`http`, `asgi`) and the process (`kserve_server`).

Three things differ from uvicorn's own:

- A head (or trailer section) has a size limit. httptools has none and copies a header's value again for every packet:
  100 MB of one header took 12 s of the event loop and stayed in memory.
- An offer to upgrade is passed over (RFC 9110 section 7.8 lets a server ignore it) instead of losing the body: Java's
  HttpClient offers h2c with every first request, POST included.
- What the parser refuses is answered with the protocol's error object, not with plain text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from oip.errors import OipError
from oip.metadata import encode_error

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEAD_BYTES = 64 * 1024
"""Envoy's limit is 60 KiB, h11's 64. A head that arrives in one read may be larger, up to the read's 1 MiB."""

_NOT_CARRIED_ON = (b"upgrade", b"http2-settings")


class HttpConnection(HttpToolsProtocol):
    """Use as uvicorn's `http` option; everything that is not overridden is uvicorn's."""

    _fruitless_bytes = 0
    """Received since anything came of it: the end of a head or a part of a body."""

    _upgrade_offered = False
    """Whether the parser is about to stop behind a head that asks for another protocol."""

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        self._fruitless_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, "this is not a valid HTTP request")
        else:
            if self._fruitless_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head of the request is larger than {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """A head is complete; one with an offer to upgrade is parsed once more without it."""
        self._fruitless_bytes = 0
        self._upgrade_offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._upgrade_offered:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._fruitless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete; one with an offer to upgrade only seems so."""
        if not self._upgrade_offered:
            super().on_message_complete()

    def _feed(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
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
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(head)

    def _head_without_upgrade(self) -> Iterator[bytes]:
        version = self.parser.get_http_version().encode()
        yield b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        for name, value in self.headers:
            if name not in _NOT_CARRIED_ON:
                yield b"%s: %s\r\n" % (name, value)
        yield b"\r\n"

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; only close where an answer to an earlier request is still on its way."""
        if self.cycle is None or self.cycle.response_complete:
            body = encode_error(OipError(message))
            headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + headers + body)
        self.transport.close()
