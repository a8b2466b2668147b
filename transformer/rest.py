"""The REST API of the web front end: the same request path as V2, with the front end's paths and field names.

What belongs here: paths, methods, CORS. What does not: JSON members (`rest_messages`), what describes the API
(`rest_openapi`, `rest_page`) and the work (`model`).

    POST /api/v1/inference/predict          one capture
    POST /api/v1/inference/predict/batch    several; one answer for each, in their order
    GET  /api/v1/inference/model/info       what is being served
    GET  /api/v1/inference/openapi.json     this API for programs
    GET  /api/v1/inference/docs             and for people, to be tried in a browser
    GET  /health                            for people and load balancers

Each path of `/api/v1/inference` is answered without that prefix too.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from oip import __version__, log_fields
from oip.errors import DeadlineExceeded, InternalError, MethodNotAllowed, OipError
from oip.http import (
    JSON,
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
from transformer import rest_messages
from transformer.edge import translated
from transformer.errors import BadSamples, UnusableSamples
from transformer.rest_openapi import rest_document
from transformer.rest_page import Page, docs_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from oip.http import ASGIApp, Header, Receive, Scope, Send
    from oip.messages import CallContext
    from transformer.model import LocalizationTransformer
    from transformer.registry_aliases import RegistryAliases
    from transformer.rest_messages import PredictRequest
    from transformer.settings import Settings

PREFIX = "/api/v1/inference"

BATCH_IN_FLIGHT = 8
"""Items of one batch that are worked on at once: enough to keep both components busy, and far from filling the
predictor's queue with the items of a single client."""

_METHODS: Mapping[str, tuple[str, ...]] = {"GET": ("GET", "HEAD"), "POST": ("POST",)}
"""What may be asked of a path that is made for this method; the server leaves the body of an answer to HEAD away."""

logger = logging.getLogger(__name__)

Answer = tuple[int, dict[str, Any]]


class RestApplication:
    """Answers the REST paths and hands everything else to `fallback`.

    Args:
        model: Does the work.
        settings: Limits and allowed origins.
        aliases: What the registry calls the served version.
        fallback: The ASGI application behind this one.
        draining: Whether the process is about to stop; then it is not healthy any more, and still answers.
    """

    def __init__(
        self,
        model: LocalizationTransformer,
        settings: Settings,
        aliases: RegistryAliases,
        fallback: ASGIApp,
        *,
        draining: Callable[[], bool] = bool,
    ) -> None:
        self._model = model
        self._observed = model.observed
        self._draining = draining
        self._settings = settings
        self._aliases = aliases
        self._timeout_s = settings.request_timeout_s
        self._fallback = fallback
        self._started_s = time.monotonic()
        self._handlers: dict[str, tuple[str, Callable[[bytes, CallContext], Awaitable[Answer]]]] = {
            "/predict": ("POST", self._predict),
            "/predict/batch": ("POST", self._predict_batch),
            "/model/info": ("GET", self._model_info),
            "/health": ("GET", self._health),
        }
        document = orjson.dumps(rest_document(__version__, PREFIX, settings.max_batch))
        self._pages = {"/openapi.json": Page(document, JSON), "/docs": docs_page()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection scope (the ASGI 3 callable)."""
        path = scope["path"].removeprefix(PREFIX).rstrip("/") if scope["type"] == "http" else ""
        if path in self._pages:
            await self._show(self._pages[path], scope, send)
        elif path not in self._handlers:
            await self._fallback(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await send_response(send, 204, b"", extra_headers=self._cors(scope, preflight=True))
        else:
            await self._exchange(path, scope, receive, send)

    async def _show(self, page: Page, scope: Scope, send: Send) -> None:
        if scope["method"] in _METHODS["GET"]:
            await send_response(send, 200, page.body, page.content_type, (*page.headers, *self._cors(scope)))
        else:
            error = MethodNotAllowed("this is only read, by GET")
            await send_error(send, error, ((b"allow", b"GET, HEAD"),))

    async def _exchange(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        method, handle = self._handlers[path]
        headers = self._cors(scope)
        body_read = False
        watched, version, context = method == "POST", "", None
        started_s = time.perf_counter()
        try:
            if scope["method"] not in _METHODS[method]:
                headers = (*headers, (b"allow", f"{', '.join(_METHODS[method])}, OPTIONS".encode()))
                raise MethodNotAllowed(f"{path} is called by {method}")  # noqa: TRY301 - one place makes answers
            watch = partial(fail_when_gone, receive)
            context = call_context(scope, self._timeout_s, watch)
            log_fields.of_request(request_id=context.request_id)
            headers = (*headers, (b"x-request-id", context.request_id.encode()))
            try:
                async with asyncio.timeout(context.deadline_s - time.monotonic()) as budget:
                    body = await read_body(scope, receive, self._settings.max_json_bytes)
                    body_read = True
                    with translated(context.request_id):
                        status, members = await handle(body, context)
                version = rest_messages.version_of(members)
            except TimeoutError as error:
                if budget.expired():
                    raise DeadlineExceeded("the request's time budget is used up") from error
                raise
            await send_response(send, status, rest_messages.encode(members), extra_headers=headers)
        except ClientDisconnected as gone:
            gone.forget()
            status = CLIENT_CLOSED
        except Exception as error:  # noqa: BLE001 - the edge: here everything becomes an answer
            told = await _send_failure(error, receive, send, headers, body_read=body_read)
            status = counted_status(told, scope, context, self._timeout_s, body_read=body_read)
        if watched:
            self._observed.request(self._model.name, version, status, time.perf_counter() - started_s)

    async def _predict(self, body: bytes, context: CallContext) -> Answer:
        request = await off_loop(len(body), context.watch, rest_messages.parse_predict, body)
        return 200, await self._answer(request, context, where="")

    async def _predict_batch(self, body: bytes, context: CallContext) -> Answer:
        started_s = time.perf_counter()
        requests = await off_loop(len(body), context.watch, rest_messages.parse_batch, body, self._settings.max_batch)
        predictions = await self._answers(requests, context)
        return 200, {
            "predictions": predictions,
            "batch_id": uuid.uuid4().hex,
            "batch_size": len(predictions),
            "total_time_ms": (time.perf_counter() - started_s) * 1000.0,
        }

    async def _answers(self, requests: tuple[PredictRequest, ...], context: CallContext) -> list[dict[str, Any]]:
        """All answers, or the first error that shows up; the other items then need no answer any more."""
        slots = asyncio.Semaphore(BATCH_IN_FLIGHT)

        async def answer(index: int, request: PredictRequest) -> dict[str, Any]:
            async with slots:
                return await self._answer(request, context, where=f"predictions[{index}].")

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(index, request)) for index, request in enumerate(requests)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _answer(self, request: PredictRequest, context: CallContext, where: str) -> dict[str, Any]:
        started_s = time.perf_counter()
        try:
            localization = await self._model.localize(request.query, context)
        except (BadSamples, UnusableSamples) as error:
            raise type(error)(rest_messages.in_rest_terms(str(error), where)) from error
        elapsed_s = time.perf_counter() - started_s
        return rest_messages.predict_response(request, localization, elapsed_s, datetime.now(UTC))

    async def _model_info(self, _body: bytes, context: CallContext) -> Answer:
        model = await self._model.described()
        # Half of the time that is left, so that a registry which hangs cannot make this an error.
        aliases = await self._aliases.of(model.version, (context.deadline_s - time.monotonic()) / 2)
        uptime_s = time.monotonic() - self._started_s
        return 200, rest_messages.model_info(
            self._model.name, model, aliases, self._model.arms, self._observed, uptime_s
        )

    async def _health(self, _body: bytes, _context: CallContext) -> Answer:
        ready = not self._draining() and await self._model.server_ready()
        return (200 if ready else 503), {"status": "healthy" if ready else "unhealthy", "ready": ready}

    def _cors(self, scope: Scope, *, preflight: bool = False) -> tuple[Header, ...]:
        """The headers of the Fetch standard (§3.2) for an origin that may call from a browser; none for any other."""
        origin = header(scope, b"origin")
        if origin is None or origin.decode("latin-1") not in self._settings.cors_origins:
            return ((b"vary", b"Origin"),)
        allowed: tuple[Header, ...] = ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))
        if not preflight:
            return (*allowed, (b"access-control-expose-headers", b"x-request-id, retry-after"))
        return (
            *allowed,
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"content-type, content-encoding, x-request-id, x-request-timeout-ms"),
            (b"access-control-max-age", b"600"),
        )


async def _send_failure(
    error: Exception, receive: Receive, send: Send, headers: tuple[Header, ...], *, body_read: bool
) -> int:
    """Say what the client may know of the error; a body that is still on its way must not hold up the answer.

    Returns:
        The status of the answer.
    """
    if not isinstance(error, OipError):
        logger.error("a REST request failed", exc_info=error)
        error = InternalError("internal error")
    if body_read:
        await send_error(send, error, headers)
    else:
        await refuse_body(receive, send, error, headers)
    return error.status
