"""The ASGI application that speaks the protocol over HTTP, in front of another application.

What belongs here: HTTP request → backend → HTTP answer. What does not: bytes of messages (`codec`, `metadata`), what
any ASGI application needs (`http`), models.

The way of an inference request, top-down: `_infer` → `_answer` (read, decode, backend, encode) → `send_response`.
No framework lies on it: at 0.2 ms of CPU for a whole request, one would be the largest part.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from oip import log_fields
from oip.bounded import BoundedApplication
from oip.codec import EncodedBody, decode_request, encode_response
from oip.deadlines import Deadlines
from oip.descriptions import Descriptions, allowed_methods
from oip.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    OipError,
    PayloadTooLarge,
)
from oip.extensions import Extensions
from oip.http import (
    OCTETS,
    ClientDisconnected,
    call_context,
    fail_when_gone,
    header,
    read_body,
    refuse_body,
    send_error,
    send_response,
)
from oip.large_work import off_loop
from oip.outcomes import CLIENT_CLOSED, counted_status
from oip.routes import Endpoint, Route, route_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.http import ASGIApp, Header, Message, Receive, Scope, Send
    from oip.messages import Backend, CallContext, InferResponse

    Observer = Callable[[str, str, int, float], None]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
"""Below `MAX_BODY_BYTES`, because numbers as text take up to 18 times their own memory (`json_document`) and binary
tensors none beside themselves: 16 MiB of one-digit numbers come to 300 MB."""

DEFAULT_TIMEOUT_S = 30.0

_JSON_SIZE = b"inference-header-content-length"
_MAX_REPOSITORY_BYTES = 64 * 1024
"""A repository request is a handful of parameters."""

logger = logging.getLogger(__name__)


def _never() -> bool:
    return False


class OpenInferenceApplication:
    """Answers `/v2/…` from a backend and hands everything else to `fallback`.

    Foreign are all paths outside `/v2` and what is not HTTP (lifespan, WebSockets).

    Args:
        backend: Answers; see `messages.Backend`.
        fallback: The ASGI application behind this one. The limits of JSON and time hold for what is sent to it too.
        max_body_bytes: The largest request body, as it travels and decompressed.
        max_json_bytes: The largest JSON part of a request body: all of it, or what the header
            `Inference-Header-Content-Length` says.
        default_timeout_s: A request's time budget; the header `x-request-timeout-ms` can only lower it.
        observer: Called after every inference request with model name, model version, status and seconds. The two
            names are empty as long as no answer has vouched for them, so that clients cannot invent label values. The
            status is 499 where the client is to blame for the end of its time (`outcomes`).
        draining: Whether the process is about to stop; then readiness is denied, and nothing else.
        extensions: Answers the optional endpoints; without it they are 501.
    """

    def __init__(
        self,
        backend: Backend,
        fallback: ASGIApp,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_json_bytes: int = MAX_JSON_BYTES,
        default_timeout_s: float = DEFAULT_TIMEOUT_S,
        observer: Observer | None = None,
        draining: Callable[[], bool] = _never,
        extensions: Extensions | None = None,
    ) -> None:
        self._backend = backend
        self._fallback = BoundedApplication(fallback, max_json_bytes, default_timeout_s)
        self._max_body_bytes = max_body_bytes
        self._max_json_bytes = max_json_bytes
        self._default_timeout_s = default_timeout_s
        self._observer = observer
        self._descriptions = Descriptions(backend, draining, extensions or Extensions())
        self._deadlines = Deadlines()
        self._known: set[tuple[str, str | None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection scope (the ASGI 3 callable)."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        route = route_of(scope.get("raw_path") or scope["path"].encode())
        if route.endpoint is Endpoint.FOREIGN:
            await self._fallback(scope, receive, send)
        elif route.endpoint is Endpoint.INFER and scope["method"] == "POST":
            await self._infer(route, scope, receive, send)
        else:
            await self._describe(_Exchange(route, scope, receive), send)

    async def _infer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        exchange = _Exchange(route, scope, receive)
        try:
            response, encoded = await self._answer(exchange)
        except ClientDisconnected as gone:
            gone.forget()
            self._observe(route, "", CLIENT_CLOSED, started_s)
            return
        except Exception as error:  # noqa: BLE001 - the edge: here everything becomes an answer
            await self._send_failure(exchange, error, started_s, send)
            return
        self._known.update(((route.model_name, None), (route.model_name, response.model_version)))
        await _send_encoded(send, encoded, exchange.echo)
        self._observe(route, response.model_version or "", 200, started_s)

    async def _answer(self, exchange: _Exchange) -> tuple[InferResponse, EncodedBody]:
        context = exchange.context = call_context(exchange.scope, self._default_timeout_s, exchange.watch)
        log_fields.of_request(request_id=context.request_id)
        json_size = _json_size(exchange.scope)
        task = self._deadlines.enter(context.deadline_s)
        try:
            body = await self._read(exchange, json_size)
            request = await off_loop(len(body), exchange.watch, decode_request, body, json_size)
            route = exchange.route
            response = await self._backend.infer(route.model_name, route.version, request, context)
            size = sum([output.array.nbytes for output in response.outputs])
            return response, await off_loop(size, exchange.watch, encode_response, response, request)
        except asyncio.CancelledError as error:
            if self._deadlines.has_expired(task):
                raise DeadlineExceeded("the request's time budget is used up") from error
            raise
        finally:
            self._deadlines.leave(task)

    async def _read(self, exchange: _Exchange, json_size: int | None) -> bytes:
        """The body; a JSON part over its own limit is refused before more than that has been read."""
        limit_bytes = self._max_body_bytes if json_size is not None else min(self._max_body_bytes, self._max_json_bytes)
        if json_size is not None and self._max_body_bytes > self._max_json_bytes < json_size:
            raise self._json_too_large()
        try:
            return await read_body(exchange.scope, exchange.receive, limit_bytes)
        except PayloadTooLarge as error:
            if limit_bytes == self._max_body_bytes:
                raise
            raise self._json_too_large() from error

    def _json_too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the JSON text is larger than {self._max_json_bytes} bytes; "
            f"send the tensors as binary data behind it (up to {self._max_body_bytes} bytes in all)"
        )

    async def _send_failure(self, exchange: _Exchange, error: Exception, started_s: float, send: Send) -> None:
        answer, complete = _translated(error, exchange), exchange.body_read
        if complete:
            await send_error(send, answer, exchange.echo)
        else:
            await refuse_body(exchange.receive, send, answer, exchange.echo)
        status = counted_status(
            answer.status, exchange.scope, exchange.context, self._default_timeout_s, body_read=complete
        )
        self._observe(exchange.route, "", status, started_s)

    def _observe(self, route: Route, version: str, status: int, started_s: float) -> None:
        if self._observer is None:
            return
        name = route.model_name if (route.model_name, None) in self._known else ""
        if not version and (name, route.version) in self._known:
            version = route.version or ""
        self._observer(name, version, status, time.perf_counter() - started_s)

    async def _describe(self, exchange: _Exchange, send: Send) -> None:
        """Answer what is not inference. Of the endpoints here, only the repository's read their body."""
        route, scope = exchange.route, exchange.scope
        try:
            context = exchange.context = call_context(scope, self._default_timeout_s)
            log_fields.of_request(request_id=context.request_id)
            async with asyncio.timeout(context.deadline_s - time.monotonic()):
                read = partial(read_body, scope, exchange.receive, _MAX_REPOSITORY_BYTES)
                status, body = await self._descriptions.answer(route, scope["method"], read)
        except MethodNotAllowed as error:
            allowed = ", ".join(allowed_methods(route.endpoint)).encode()
            await send_error(send, error, (*exchange.echo, (b"allow", allowed)))
        except TimeoutError:
            await send_error(send, DeadlineExceeded("the request's time budget is used up"), exchange.echo)
        except Exception as error:  # noqa: BLE001 - the edge: here everything becomes an answer
            await send_error(send, _translated(error, exchange), exchange.echo)
        else:
            await send_response(send, status, body, extra_headers=exchange.echo)


class _Exchange:
    """One request on its way: what the error path must know of how far it came."""

    __slots__ = ("_receive", "body_read", "context", "route", "scope")

    def __init__(self, route: Route, scope: Scope, receive: Receive) -> None:
        self.route = route
        self.scope = scope
        self.context: CallContext | None = None
        self.body_read = False
        self._receive = receive

    async def receive(self) -> Message:
        """The ASGI receive callable, watched for the end of the body."""
        message = await self._receive()
        self.body_read = not message.get("more_body", False)
        return message

    def watch(self, waiting: asyncio.Future[Any]) -> None:
        """Let `waiting` fail as soon as the client has gone; see `CallContext.watch`."""
        fail_when_gone(self._receive, waiting)

    @property
    def echo(self) -> tuple[Header, ...]:
        """The header that carries the request's id back."""
        return () if self.context is None else ((b"x-request-id", self.context.request_id.encode()),)


def _json_size(scope: Scope) -> int | None:
    value = header(scope, _JSON_SIZE)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 15:  # noqa: PLR2004 - no body has a length of more digits
        raise InvalidRequest("Inference-Header-Content-Length: must be a number of bytes")
    return int(value)


async def _send_encoded(send: Send, encoded: EncodedBody, extra_headers: tuple[Header, ...]) -> None:
    if encoded.json_size is None:
        await send_response(send, 200, encoded.body, extra_headers=extra_headers)
        return
    extra_headers = (*extra_headers, (_JSON_SIZE, b"%d" % encoded.json_size))
    await send_response(send, 200, encoded.body, OCTETS, extra_headers)


def _translated(error: Exception, exchange: _Exchange) -> OipError:
    """The error that the client may see. What it may not see goes to the log, with the request's id."""
    request_id = "" if exchange.context is None else exchange.context.request_id
    if isinstance(error, OipError):
        logger.info("request %s to '%s': %d %s", request_id, exchange.route.model_name, error.status, error.message)
        return error
    logger.error("request %s to '%s' failed", request_id, exchange.route.model_name, exc_info=error)
    return InternalError("internal error", details={"request_id": request_id})
