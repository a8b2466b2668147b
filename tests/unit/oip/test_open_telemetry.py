from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from oip import open_telemetry, tracing
from oip.open_telemetry import OpenTelemetry
from oip.traced_application import TracedApplication, traced
from oip.tracing import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Spans:
    """Tracing that is on, and the spans that it sent."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = OpenTelemetry("svc", {}, self.exporter)
        tracing.use(self.tracer)

    def sent(self) -> Sequence[ReadableSpan]:
        """All of them, after the end."""
        tracing.close()
        return self.exporter.get_finished_spans()


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Tracing is on."""
    yield Spans()
    tracing.use(None)


def test_spans_nest_and_carry_the_clients_trace(spans: Spans) -> None:
    """A server span is a child of what the client sent; what is called by the inner one gets the inner one's id."""
    with tracing.span("outer", Kind.SERVER, (TRACEPARENT, "v=1")) as outer:
        outer.set("a", 1)
        with tracing.span("inner", Kind.CLIENT):
            traceparent, tracestate = spans.tracer.trace_context()
            identity = tracing.identity()
    inner, outer_sent = spans.sent()
    assert outer_sent.context is not None
    assert inner.context is not None
    assert inner.parent is not None
    assert outer_sent.parent is not None
    assert f"{outer_sent.parent.span_id:016x}" == PARENT
    assert inner.parent.span_id == outer_sent.context.span_id
    assert (traceparent, tracestate) == (f"00-{TRACE}-{inner.context.span_id:016x}-01", "v=1")
    assert identity == {"trace_id": TRACE, "span_id": f"{inner.context.span_id:016x}"}
    assert (inner.kind, outer_sent.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert outer_sent.attributes == {"a": 1}
    assert outer_sent.resource.attributes["service.name"] == "svc"


def test_a_failure_is_named_but_not_quoted(spans: Spans) -> None:
    """A failure's first word counts: its class, since an error's own words may hold what a client sent."""
    with pytest.raises(ValueError, match="secret"), tracing.span("a"):
        raise ValueError("secret")
    with tracing.span("b") as span:
        span.failed("503")
        span.failed("later")
    first, second = spans.sent()
    assert first.status.status_code is second.status.status_code is StatusCode.ERROR
    assert (first.attributes, second.attributes) == ({"error.type": "ValueError"}, {"error.type": "503"})
    assert "secret" not in first.to_json()


def test_below_what_is_not_sampled_nothing_is_made(spans: Spans) -> None:
    """The client's flag "not sampled" travels on under the client's own trace, and no step costs anything."""
    with tracing.span("outer", Kind.SERVER, (f"00-{TRACE}-{PARENT}-00", None)), tracing.span("inner") as inner:
        assert inner is tracing.NOTHING
        traceparent, _ = spans.tracer.trace_context()
    assert traceparent is not None
    assert traceparent.startswith(f"00-{TRACE}-")
    assert traceparent.endswith("-00")
    assert not spans.sent()


@pytest.mark.parametrize("traceparent", [None, "", "rubbish", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_broken_context_begins_a_trace_of_its_own(spans: Spans, traceparent: str | None) -> None:
    """By W3C's rules a traceparent that cannot be read is as good as none."""
    with tracing.span("a", Kind.SERVER, (traceparent, None)):
        pass
    (sent,) = spans.sent()
    assert sent.parent is None


def test_outside_of_a_span_there_is_no_identity(spans: Spans) -> None:
    """Log lines of no request name no trace."""
    assert spans.tracer.identity() == {}
    assert spans.tracer.trace_context() == (None, None)


def test_the_environment_names_the_service() -> None:
    """OTEL_SERVICE_NAME stands above the component's own name; the exporter is OTLP by itself."""
    exporter = InMemorySpanExporter()
    tracer = OpenTelemetry("svc", {"OTEL_SERVICE_NAME": "other"}, exporter)
    with tracer.span("a", Kind.INTERNAL, None):
        pass
    tracer.close()
    (sent,) = exporter.get_finished_spans()
    assert sent.resource.attributes["service.name"] == "other"


def test_configure_uses_it() -> None:
    """An endpoint in the environment is all it takes."""
    try:
        tracing.configure("svc", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
        assert tracing.is_on()
    finally:
        tracing.close()


class _Stuck(SpanExporter):
    """Takes nothing until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def export(self, _spans: object) -> SpanExportResult:
        self.released.wait(30.0)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing to close."""


def test_the_end_does_not_wait_for_a_stuck_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's end is not held up by spans that nobody takes."""
    monkeypatch.setattr(open_telemetry, "CLOSE_S", 0.05)
    stuck = _Stuck()
    tracer = OpenTelemetry("svc", {}, stuck)
    with tracer.span("a", Kind.INTERNAL, None):
        pass
    began_s = time.monotonic()
    tracer.close()
    assert time.monotonic() - began_s < 10.0
    stuck.released.set()


# --- the span of a request ------------------------------------------------------------------------------------------


def _application(status: int) -> Any:  # noqa: ANN401 - an ASGI application
    async def answer(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        headers = [(b"x-request-id", b"r-1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return answer


async def _call(application: Any, method: str, path: str, kind: str = "http") -> list[Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sent: list[Any] = []

    async def send(message: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    headers = [(b"traceparent", TRACEPARENT.encode())]
    await application({"type": kind, "method": method, "path": path, "headers": headers}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/models/loc/infer", "POST /v2/models/{model}/infer"),
        ("/v2/models/loc/versions/3/infer", "POST /v2/models/{model}/versions/{version}/infer"),
        ("/predict", "POST"),
        ("/v2/repository/index", "POST"),
    ],
)
async def test_one_span_for_a_post(spans: Spans, path: str, name: str) -> None:
    """Its name is one of few whatever the client calls, the path itself an attribute; answers pass unchanged."""
    told = await _call(traced(_application(200)), "POST", path)
    assert [one["type"] for one in told] == ["http.response.start", "http.response.body"]
    (sent,) = spans.sent()
    assert sent.name == name
    assert sent.parent is not None
    assert sent.attributes is not None
    assert sent.attributes["url.path"] == path
    assert sent.attributes["http.response.status_code"] == 200
    assert sent.attributes["heimdall.request_id"] == "r-1"
    assert sent.attributes.get("http.route", "") == name.removeprefix("POST").strip()


@pytest.mark.parametrize(("status", "failed"), [(200, False), (400, False), (499, False), (500, True), (503, True)])
async def test_only_the_servers_failures_are_failures(spans: Spans, status: int, failed: bool) -> None:  # noqa: FBT001 - pytest passes it so
    """OpenTelemetry's rule for server spans: a client's mistake leaves the status unset."""
    await _call(traced(_application(status)), "POST", "/predict")
    (sent,) = spans.sent()
    assert (sent.status.status_code is StatusCode.ERROR) is failed


async def test_what_gets_no_span(spans: Spans) -> None:
    """Probes and scrapes, which come every second, and what is not HTTP."""
    assert await _call(traced(_application(200)), "GET", "/v2/health/ready")
    assert await _call(traced(_application(200)), "POST", "/", kind="websocket")
    assert not spans.sent()


async def test_off_there_is_nothing_around_the_application() -> None:
    """Without tracing a request meets no code of it."""
    application = _application(200)
    assert traced(application) is application
    assert not isinstance(traced(application), TracedApplication)
