from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from oip import log_fields, tracing
from oip.messages import CallContext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CONTEXT = CallContext(deadline_s=1.0, request_id="r", traceparent="00-a-b-01", tracestate="v=1")


class Noted:
    """A tracer that takes notes."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    @contextmanager
    def span(self, name: str, kind: tracing.Kind, parent: object) -> Iterator[Noted]:
        """Note its begin."""
        self.notes.append((name, kind, parent))
        yield self

    def set(self, name: str, value: object) -> None:
        """Note an attribute."""
        self.notes.append((name, value))

    def failed(self, kind: str) -> None:
        """Note a failure."""
        self.notes.append(kind)

    def trace_context(self) -> tuple[str | None, str | None]:
        """A context of its own."""
        return "00-c-d-01", None

    def identity(self) -> Mapping[str, str]:
        """An identity of its own."""
        return {"trace_id": "c"}

    def close(self) -> None:
        """Note the end."""
        self.notes.append("closed")


@pytest.fixture
def noted() -> Iterator[Noted]:
    """Tracing is on."""
    tracer = Noted()
    tracing.use(tracer)
    yield tracer
    tracing.use(None)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": " None ", ENDPOINT: "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: "http://c:4318"}, False),
    ],
)
def test_the_environment_decides(environ: dict[str, str], wanted: bool) -> None:  # noqa: FBT001 - pytest passes it so
    """The variables of OpenTelemetry's specification switch tracing on and off."""
    assert tracing.is_wanted(environ) is wanted


def test_off_is_nothing() -> None:
    """Without a tracer the context of a call stays as the client sent it, and spans take whatever is said of them."""
    assert not tracing.is_on()
    with tracing.span("a", tracing.Kind.CLIENT) as span:
        span.set("b", 1)
        span.failed("c")
    assert tracing.outgoing(CONTEXT) is CONTEXT
    assert tracing.identity() == {}
    tracing.close()


def test_off_costs_next_to_nothing() -> None:
    """A request has seven spans; off, all of them together must not show beside its milliseconds.

    Measured: 0.2 µs for one; the bound leaves room for coverage and busy machines.
    """

    def spans(count: int) -> float:
        began_s = time.process_time()
        for _ in range(count):
            with tracing.span("a"):
                pass
        return (time.process_time() - began_s) / count

    assert min(spans(2000) for _ in range(10)) < 10e-6


def test_off_imports_nothing() -> None:
    """OpenTelemetry takes a third of a second to import, which no start pays for that does not trace."""
    script = "import sys; from oip import tracing; tracing.configure('x', {}); print('opentelemetry' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "False"


def test_on(noted: Noted) -> None:
    """With a tracer spans are its own, calls carry its context, log lines its identity; closing ends it."""
    assert tracing.is_on()
    with tracing.span("a", tracing.Kind.SERVER, ("p", None)) as span:
        span.set("b", 1)
    assert noted.notes == [("a", tracing.Kind.SERVER, ("p", None)), ("b", 1)]
    told = tracing.outgoing(CONTEXT)
    assert (told.traceparent, told.tracestate, told.request_id) == ("00-c-d-01", None, "r")
    assert log_fields.current()["trace_id"] == "c"
    tracing.close()
    assert noted.notes[-1] == "closed"
    assert not tracing.is_on()


def test_the_packages_are_missing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was built without the extra serves all the same, and says why there are no spans."""

    def missing(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with caplog.at_level(logging.WARNING):
        tracing.configure("x", {ENDPOINT: "http://127.0.0.1:9"})
    assert not tracing.is_on()
    assert "not installed" in caplog.text


LINES = """
import asyncio, logging
from oip import log_fields
from oip.json_log import configure_logging
configure_logging("INFO")
logger = logging.getLogger("a")
log_fields.of_process(version="1", model_digest="d1")
async def request(number):
    log_fields.of_request(request_id=number)
    await asyncio.sleep(0)
    if number == "2":
        log_fields.of_request(version="2", model_digest="d2")
    await asyncio.sleep(0)
    logger.info("answered", extra={"status": 200})
async def main():
    await asyncio.gather(request("1"), request("2"))
    logger.info("idle")
asyncio.run(main())
"""


def test_log_lines_name_request_and_version() -> None:
    """Every line has the process's fields; one of a request has its id, and its own version above the process's."""
    told = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert [(one.get("request_id"), one["version"], one["model_digest"], one.get("status")) for one in lines] == [
        ("1", "1", "d1", 200),
        ("2", "2", "d2", 200),
        (None, "1", "d1", None),
    ]
