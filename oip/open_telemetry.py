"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP.

What belongs here: everything that knows OpenTelemetry. It is imported only when tracing is on, because the imports
alone take longer than the rest of a start. What does not: when there are spans, and what they say (`tracing`).

The SDK reads its own environment variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_BSP_… and others.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import oip
from oip import tracing
from oip.tracing import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace.export import SpanExporter

    from oip.tracing import AttributeValue, Span

_KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
_W3C = TraceContextTextMapPropagator()

CLOSE_S = 2.0
"""How long the end of a process waits for a collector; a pod must not live longer for one that is away."""


class OpenTelemetry:
    """A `tracing.Tracer`.

    Args:
        service: The resource attribute `service.name`, unless OTEL_SERVICE_NAME gives it.
        environ: The environment.
        exporter: Sends the spans; None: OTLP over HTTP.
    """

    def __init__(self, service: str, environ: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        name = environ.get("OTEL_SERVICE_NAME") or service
        resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: oip.__version__})
        # Ended by `close`; the SDK's own handler at exit would wait for a collector that is away once more.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = exporter or OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("heimdall", oip.__version__)

    def span(self, name: str, kind: Kind, parent: tuple[str | None, str | None] | None) -> AbstractContextManager[Span]:
        """See `tracing.Tracer`. Below a span that is not sampled there is nothing to say, and nothing is made."""
        above = trace.get_current_span()
        if parent is None and above.get_span_context().is_valid and not above.is_recording():
            return tracing.NOTHING
        return self._begun(name, kind, parent)

    @contextmanager
    def _begun(self, name: str, kind: Kind, parent: tuple[str | None, str | None] | None) -> Iterator[Span]:
        """The error's words stay here: they may hold what a client sent."""
        context = None if parent is None else _W3C.extract(_carrier(*parent))
        with self._tracer.start_as_current_span(
            name, context, _KINDS[kind], record_exception=False, set_status_on_exception=False
        ) as real:
            made = _Span(real)
            try:
                yield made
            except BaseException as error:
                made.failed(type(error).__name__)
                raise

    def trace_context(self) -> tuple[str | None, str | None]:
        """See `tracing.Tracer`."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier.get("traceparent"), carrier.get("tracestate")

    def identity(self) -> Mapping[str, str]:
        """See `tracing.Tracer`."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}

    def close(self) -> None:
        """See `tracing.Tracer`; what a collector has not taken within `CLOSE_S` is lost."""
        # The SDK's own waiting heeds no time limit while the exporter is repeating itself.
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(CLOSE_S)
        if last.is_alive():
            self._exporter.shutdown()


class _Span:
    """A `tracing.Span`."""

    __slots__ = ("_has_failed", "_real")

    def __init__(self, real: trace.Span) -> None:
        self._real = real
        self._has_failed = False

    def set(self, name: str, value: AttributeValue) -> None:
        """See `tracing.Span`."""
        self._real.set_attribute(name, value)

    def failed(self, kind: str) -> None:
        """See `tracing.Span`; the first word stays, because it was said nearest to the cause."""
        if not self._has_failed:
            self._has_failed = True
            self._real.set_attribute("error.type", kind)
            self._real.set_status(Status(StatusCode.ERROR))


def _carrier(traceparent: str | None, tracestate: str | None) -> dict[str, str]:
    told = {"traceparent": traceparent, "tracestate": tracestate}
    return {name: value for name, value in told.items() if value}
