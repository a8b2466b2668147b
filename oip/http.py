"""What every ASGI application of this service needs: bodies in, bodies and errors out, and the call's context.

What belongs here: HTTP as such. What does not: paths (`routes`), the protocol's own headers and answers (`asgi`), and
frameworks: an application here is a plain ASGI callable.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from oip import body_budget
from oip.errors import InvalidRequest, OipError, PayloadTooLarge, UnsupportedMediaType
from oip.large_work import off_loop
from oip.messages import CallContext
from oip.metadata import encode_error
from oip.whole_body import MAX_WHOLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
OCTETS = b"application/octet-stream"

LINGER_S = 5.0
"""How long the rest of a refused body is read and thrown away. Closing on unread bytes resets the connection, and the
client may then never see the answer (RFC 9112 section 9.6)."""

_CLOSE: Header = (b"connection", b"close")
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Content codings of RFC 9110 section 8.4.1 (deflate is the zlib format there) → `wbits` of zlib."""

_HEADERS = "oip.headers"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class ClientDisconnected(Exception):
    """The client went away before its request was answered; nobody is left to answer."""

    def forget(self) -> None:
        """Let go of what it has come through; whoever ends the request calls this.

        A future that failed with it is a variable of a frame in its traceback: a circle, in which the request's body
        would stay until the garbage collector comes.
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by their names in lower case; the last one of those that occur twice. Made once for each request."""
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:
        headers = scope[_HEADERS] = dict(scope["headers"])
    return headers


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the header `name` (lower case); the last one where it occurs twice."""
    return headers_of(scope).get(name)


def call_context(
    scope: Scope, default_timeout_s: float, watch: Callable[[asyncio.Future[Any]], None] | None = None
) -> CallContext:
    """The call's deadline and identity; `watch` as in `CallContext`.

    `x-request-timeout-ms` lowers the time budget and never raises it. An `x-request-id` that is not 1 to 128 visible
    ASCII characters is replaced, for it ends up in log lines and headers.

    Raises:
        InvalidRequest: `x-request-timeout-ms` is not a whole number above 0.
    """
    headers = headers_of(scope)
    timeout_ms = headers.get(b"x-request-timeout-ms")
    if timeout_ms is not None:
        default_timeout_s = min(default_timeout_s, _positive_integer(timeout_ms, "x-request-timeout-ms") / 1000)
    request_id = headers.get(b"x-request-id")
    traceparent, tracestate = headers.get(b"traceparent"), headers.get(b"tracestate")
    return CallContext(
        deadline_s=time.monotonic() + default_timeout_s,
        request_id=request_id.decode() if request_id and _REQUEST_ID.fullmatch(request_id) else os.urandom(16).hex(),
        traceparent=None if traceparent is None else traceparent.decode("latin-1"),
        tracestate=None if tracestate is None else tracestate.decode("latin-1"),
        watch=watch,
    )


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body, decompressed.

    Args:
        scope: The request's.
        receive: The request's.
        limit_bytes: For the body as it travels and for what it decompresses to.

    Raises:
        PayloadTooLarge: By Content-Length, before anything is read; else as soon as the limit is passed.
        UnsupportedMediaType: A Content-Encoding other than gzip, deflate and identity.
        InvalidRequest: The compressed data is broken.
        Unavailable: The bodies of all requests together are too large; by Content-Length before anything is read, else
            as soon as a part does not fit.
        ClientDisconnected: The body never became complete.
    """
    headers = headers_of(scope)
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity" and coding not in _WINDOW_BITS:
        raise UnsupportedMediaType(f"Content-Encoding: {coding[:32].decode('latin-1')} is not spoken here")
    body = await read_plain_body(scope, receive, limit_bytes)
    if coding == b"identity":
        return body
    watch = partial(fail_when_gone, receive)
    plain = await off_loop(len(body), watch, _decompress, body, coding, limit_bytes)
    body_budget.take(scope, len(plain))
    return plain


async def read_plain_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body as it travels; raises `PayloadTooLarge`, `Unavailable` and `ClientDisconnected` as `read_body`.

    A body counts for the budget as it arrives: a client that announces much and sends nothing must not take it from the
    others. One that may be received where it stays counts at once, because its memory is there already (`whole_body`).
    """
    size = int(headers_of(scope).get(b"content-length", 0))  # the HTTP parser has made sure that it is a number
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    if 0 < size <= MAX_WHOLE_BYTES:
        body_budget.take(scope, size)
        return await _receive_all(receive, limit_bytes)
    body_budget.check(scope, size)
    return await _receive_all(receive, limit_bytes, partial(body_budget.take, scope))


def fail_when_gone(receive: Receive, waiting: asyncio.Future[Any]) -> None:
    """Let `waiting` fail with `ClientDisconnected` as soon as the client has gone; for requests whose body was read."""
    watcher = asyncio.ensure_future(_fail_when_gone(receive, waiting))
    waiting.add_done_callback(lambda _: watcher.cancel())


async def send_response(
    send: Send, status: int, body: bytes, content_type: bytes = JSON, extra_headers: Iterable[Header] = ()
) -> None:
    """Send a complete answer, always with Content-Length."""
    await _send_start(send, status, body, content_type, extra_headers)
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: OipError, extra_headers: Iterable[Header] = ()) -> None:
    """Send an error's status and `{"error": …}`, with Retry-After where the error carries one."""
    await send_response(send, error.status, encode_error(error), JSON, (*extra_headers, *_error_headers(error)))


async def refuse_body(receive: Receive, send: Send, error: OipError, extra_headers: Iterable[Header] = ()) -> None:
    """Send an error while the request's body is still unread, and close the connection.

    The answer leaves at once; then the rest of the body is thrown away, for `LINGER_S` at most.
    """
    body = encode_error(error)
    await _send_start(send, error.status, body, JSON, (*extra_headers, *_error_headers(error), _CLOSE))
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass  # it is closed all the same
    await send({"type": "http.response.body", "body": b""})


async def _fail_when_gone(receive: Receive, waiting: asyncio.Future[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if not waiting.done():
        waiting.set_exception(ClientDisconnected())


async def _send_start(
    send: Send, status: int, body: bytes, content_type: bytes, extra_headers: Iterable[Header]
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra_headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})


def _error_headers(error: OipError) -> tuple[Header, ...]:
    return () if error.retry_after_s is None else ((b"retry-after", b"%d" % error.retry_after_s),)


def _positive_integer(value: bytes, name: str) -> int:
    if not value.isdigit() or len(value) > 15 or int(value) == 0:  # noqa: PLR2004 - 15 digits are exact in a float
        raise InvalidRequest(f"{name}: must be a whole number above 0")
    return int(value)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes")


def _counted(_size: int) -> None:
    """The bytes were counted when their memory was taken."""


async def _receive_all(receive: Receive, limit_bytes: int, take: Callable[[int], None] = _counted) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        try:
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            take(len(chunk))
        except OipError:
            chunks.clear()  # which the error's traceback would keep for as long as the refusal takes
            raise
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _decompress(body: bytes, coding: bytes, limit_bytes: int) -> bytes:
    inflater = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"body: is not valid {coding.decode()}") from error
    if len(plain) > limit_bytes:
        raise _too_large(limit_bytes)
    if not inflater.eof or inflater.unused_data:
        raise InvalidRequest(f"body: is not one complete {coding.decode()} stream")
    return plain
