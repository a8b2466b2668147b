"""Spans of a request on its way through the processes, for whoever collects them; off unless the environment asks.

What belongs here: what a component says about its work, free of any tracing library. What does not: OpenTelemetry
(`open_telemetry`, imported only when tracing is on) and the span of a whole HTTP request (`traced_application`).

Off is the default and has to cost nothing that shows: `span` is then one comparison and an object that does nothing,
and the W3C trace context of a client travels on unchanged (`CallContext`).
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from oip.messages import CallContext

AttributeValue = str | bool | int | float

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Names of the OpenTelemetry specification ("Environment Variable Specification", "OTLP Exporter Configuration")."""

logger = logging.getLogger(__name__)


class Kind(Enum):
    """A span's place between processes, as OpenTelemetry has it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span(Protocol):
    """Something that takes time."""

    def set(self, name: str, value: AttributeValue) -> None:
        """Say something about it; names follow OpenTelemetry's semantic conventions, our own begin with `heimdall.`."""
        ...

    def failed(self, kind: str) -> None:
        """Mark it as failed; `kind` is one of few words, such as a status or the name of an error's class."""
        ...


class Tracer(Protocol):
    """What tracing needs of a library."""

    def span(self, name: str, kind: Kind, parent: tuple[str | None, str | None] | None) -> AbstractContextManager[Span]:
        """A span that is the current one for as long as it lasts; an exception that leaves it marks it as failed."""
        ...

    def trace_context(self) -> tuple[str | None, str | None]:
        """`traceparent` and `tracestate` for what the current span calls."""
        ...

    def identity(self) -> Mapping[str, str]:
        """`trace_id` and `span_id` of the current span, in hexadecimal digits; empty outside of any."""
        ...

    def close(self) -> None:
        """Send what has not been sent yet."""
        ...


class _Nothing:
    """The span when tracing is off."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def set(self, name: str, value: AttributeValue) -> None:
        pass

    def failed(self, kind: str) -> None:
        pass


NOTHING = _Nothing()
"""The span that is none."""

_NO_IDENTITY: Mapping[str, str] = {}
_tracer: Tracer | None = None


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for spans: it names an exporter other than "none", or a collector's address."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get(_EXPORTER, "").strip().lower()
    return exporter != "none" if exporter else any(environ.get(name) for name in _ENDPOINTS)


def configure(service: str, environ: Mapping[str, str]) -> None:
    """Begin tracing, if the environment asks for it; where the packages are missing, a warning says so.

    Args:
        service: The name of this process among others, unless OTEL_SERVICE_NAME gives one.
        environ: The environment. Sampler, endpoint, headers and time limits are OpenTelemetry's own variables.
    """
    if not is_wanted(environ):
        return
    try:
        library = importlib.import_module("oip.open_telemetry")
    except ImportError as error:
        logger.warning("tracing is asked for but not installed (the extra 'tracing'): %s", error)
        return
    use(library.OpenTelemetry(service, environ))


def use(tracer: Tracer | None) -> None:
    """From now on spans go to this tracer; None ends tracing."""
    global _tracer  # noqa: PLW0603 - one a process, like logging; handed through every call it would be everywhere
    _tracer = tracer


def close() -> None:
    """End tracing; spans that wait are sent."""
    if _tracer is not None:
        _tracer.close()
        use(None)


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def span(
    name: str, kind: Kind = Kind.INTERNAL, parent: tuple[str | None, str | None] | None = None
) -> AbstractContextManager[Span]:
    """A span below the current one of this task.

    Args:
        name: One of few; what differs from request to request is said by `Span.set`.
        kind: Its place between processes.
        parent: `traceparent` and `tracestate` that came with a request; None: the current span is the parent.
    """
    return NOTHING if _tracer is None else _tracer.span(name, kind, parent)


def outgoing(context: CallContext) -> CallContext:
    """The context for a call that the current span makes; the same one when tracing is off."""
    if _tracer is None:
        return context
    traceparent, tracestate = _tracer.trace_context()
    return replace(context, traceparent=traceparent, tracestate=tracestate)


def identity() -> Mapping[str, str]:
    """What a log line needs to be found from a trace: `trace_id` and `span_id`; empty when tracing is off."""
    return _NO_IDENTITY if _tracer is None else _tracer.identity()
