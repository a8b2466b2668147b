"""One HTTP/1.1 answer read from bytes as they come (RFC 9112), and whether its connection can carry another.

What belongs here: where an answer begins and ends, and its bounds; no I/O. What does not: sockets (`http_exchange`),
and what status and body mean (`predictor_client`).

Only answers to GET and POST are read: one to HEAD has a Content-Length and no body, which its bytes do not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of anything between two parts of a body; the same as this service takes of a request. What arrives
in one read may be longer."""

MAX_BODY_BYTES = 64 * 1024 * 1024
"""As much as a request may hold; a model's answer to it is a few bytes an item."""

_FIRST_FINAL_STATUS = 200
"""Statuses below are interim answers (RFC 9110, section 15.2); another one follows."""


class BadAnswer(Exception):
    """What came is not HTTP, or more than is taken; the connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer.

    Attributes:
        status: 200 to 599.
        headers: By their names in lower case; the last one of those that occur twice.
        body: As it travelled, without chunks.
    """

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class AnswerReader:
    """Reads the answers of one connection, one after the other.

    Attributes:
        begun: Whether any byte of a final answer has come.
        answer: The answer, once it is complete.
        reusable: Whether the connection may carry another request after it.

    Args:
        max_head_bytes: Longest head.
        max_body_bytes: Longest body.
    """

    def __init__(self, *, max_head_bytes: int = MAX_HEAD_BYTES, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpResponseParser(self)
        self.reset()

    def reset(self) -> None:
        """Get ready for the answer to the next request."""
        self.begun = False
        self.answer: HttpAnswer | None = None
        self.reusable = False
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._fruitless_bytes = 0
        self._head_complete = False

    def feed(self, data: bytes | memoryview) -> None:
        """Read on.

        Args:
            data: The next bytes; nothing refers to them afterwards. Bytes behind a complete answer belong to no
                request, so that the connection is not `reusable`.

        Raises:
            BadAnswer: It cannot become an answer.
        """
        if self.answer is not None:
            self.reusable = False
            return
        self._fruitless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(error)
        if self.answer is None and self._fruitless_bytes > self._max_head_bytes:
            raise BadAnswer(f"a head of more than {self._max_head_bytes} bytes")

    def end(self) -> None:
        """Take note that no more bytes will come: that is the end of a body without a length."""
        self.reusable = False
        if self._head_complete and self.answer is None and self._runs_to_the_end():
            self._complete()

    def _broken(self, error: Exception) -> None:
        self.reusable = False
        if self.answer is None:
            own = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            raise BadAnswer(str(own or error)) from error

    def _runs_to_the_end(self) -> bool:
        codings = self._headers.get(b"transfer-encoding", b"").lower().rpartition(b",")[2].strip()
        return b"content-length" not in self._headers and codings != b"chunked"

    def _complete(self) -> None:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.answer = HttpAnswer(self._parser.get_status_code(), self._headers, body)

    # --- what the parser calls; httptools knows these names ---------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of an answer; behind a complete one, that nobody asked for."""
        self.begun = True
        if self.answer is not None:
            raise BadAnswer("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or one of the trailers, which nobody here reads."""
        if not self._head_complete:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The end of a head."""
        if self._parser.get_status_code() < _FIRST_FINAL_STATUS:
            return
        self._head_complete = True
        self._fruitless_bytes = 0
        self.reusable = self._parser.should_keep_alive()
        self._check_size(int(self._headers.get(b"content-length", b"0")))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._fruitless_bytes = 0
        self._body_bytes += len(body)
        self._check_size(self._body_bytes)
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """The end of an answer; after an interim one everything begins again."""
        if self._head_complete:
            self._complete()
        else:
            self._headers = {}
            self.begun = False

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise BadAnswer(f"a body of more than {self._max_body_bytes} bytes")
