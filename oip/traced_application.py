"""The span of a whole HTTP request, around any ASGI application.

What belongs here: a request's trace context, and what its span says by OpenTelemetry's semantic conventions for HTTP
(version 1.23 and later). What does not: spans of the steps within (they are where the steps are).

It is put around the application only when tracing is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oip import tracing
from oip.http import header
from oip.routes import Endpoint, route_of

if TYPE_CHECKING:
    from oip.http import ASGIApp, Message, Receive, Scope, Send
    from oip.tracing import Span

_SERVER_ERROR = 500
"""From here on a status is the server's failure; a client's mistake is no failure of a server span."""


class TracedApplication:
    """Makes one server span for each POST. Probes and scrapes, which come every second, are not worth one.

    Args:
        application: Answers.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection scope (the ASGI 3 callable)."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._application(scope, receive, send)
            return
        route = _route(scope)
        parent = (_text(header(scope, b"traceparent")), _text(header(scope, b"tracestate")))
        with tracing.span(f"POST {route}" if route else "POST", tracing.Kind.SERVER, parent) as span:
            _describe(span, scope, route)

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _describe_answer(span, message)
                await send(message)

            await self._application(scope, receive, told)


def traced(application: ASGIApp) -> ASGIApp:
    """The application, with a span for each request if tracing is on."""
    return TracedApplication(application) if tracing.is_on() else application


def _route(scope: Scope) -> str:
    """The template of the path, one of few; empty where it is not the protocol's."""
    route = route_of(scope.get("raw_path") or scope["path"].encode())
    if route.endpoint is not Endpoint.INFER:
        return ""
    return "/v2/models/{model}/infer" if route.version is None else "/v2/models/{model}/versions/{version}/infer"


def _describe(span: Span, scope: Scope, route: str) -> None:
    span.set("http.request.method", scope["method"])
    span.set("url.scheme", scope.get("scheme", "http"))
    span.set("url.path", scope["path"])
    span.set("network.protocol.version", scope.get("http_version", "1.1"))
    if route:
        span.set("http.route", route)


def _describe_answer(span: Span, message: Message) -> None:
    status = message["status"]
    span.set("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.failed(str(status))
    request_id = dict(message.get("headers", ())).get(b"x-request-id")
    if request_id:
        span.set("heimdall.request_id", request_id.decode())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
