"""One trace from the client through transformer and predictor, as a collector sees it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import tritonclient.http as v2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "vendor=1", "x-request-id": "r-1"}
INTERNAL, SERVER, CALL = 1, 2, 3
"""Kinds of spans in OTLP's protobuf."""

PREDICT, INFER = "/api/v1/inference/predict", "POST /v2/models/{model}/infer"


@pytest.fixture
def start(fleet: Any, model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:  # noqa: ANN401 - of conftest.py
    """Starts a predictor and a transformer that send spans to this address; returns both."""

    def start(endpoint: str, *options: str, **environ: str) -> tuple[Any, Any]:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", **environ}
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        predictor = fleet.predictor(model_dir("reference"), *options)
        transformer = fleet.transformer(predictor.address)
        transformer.wait_until(transformer.ready)
        return predictor, transformer

    return start


def _infer(transformer: Any, iq: Any) -> None:  # noqa: ANN401
    tensor = v2.InferInput("iq", iq.shape, "FP32")
    tensor.set_data_from_numpy(iq)
    with v2.InferenceServerClient(transformer.address) as client:
        client.infer("localization", [tensor], headers=HEADERS)


def _one(spans: list[Any], service: str, name: str, kind: int = INTERNAL) -> Any:  # noqa: ANN401
    (found,) = [one for one in spans if (one.service, one.name, one.kind) == (f"heimdall-{service}", name, kind)]
    return found


@pytest.mark.parametrize("inline_run_us", ["0", "10000"])
def test_one_trace_from_client_to_session(
    collector: Any,  # noqa: ANN401
    start: Callable[..., Any],
    drawn: Any,  # noqa: ANN401
    inline_run_us: str,
) -> None:
    """Every step is a span below the client's own, across both processes; models in threads and in the event loop."""
    _, transformer = start(collector.url, "--inline_run_us", inline_run_us)
    _infer(transformer, drawn.iq[:1])
    spans = collector.trace(TRACE, 7)
    outer, arm = _one(spans, "transformer", INFER, SERVER), _one(spans, "transformer", "arm")
    call, inner = _one(spans, "transformer", "POST", CALL), _one(spans, "predictor", INFER, SERVER)
    run = _one(spans, "predictor", "session run")
    parents = [(outer, CLIENT), (arm, outer.span_id), (call, arm.span_id), (inner, call.span_id), (run, inner.span_id)]
    parents += [(_one(spans, "transformer", name), arm.span_id) for name in ("cache lookup", "features")]
    assert [one.parent_id for one, _ in parents] == [parent for _, parent in parents]
    assert len(spans) == 7
    assert not any(span.failed for span in spans)
    assert outer.duration_s >= arm.duration_s >= call.duration_s >= inner.duration_s >= run.duration_s > 0
    assert outer.attributes["http.response.status_code"] == 200
    assert outer.attributes["heimdall.request_id"] == inner.attributes["heimdall.request_id"] == "r-1"
    assert (arm.attributes["heimdall.arm"], arm.attributes["heimdall.attempt"]) == ("stable", 1)
    assert run.attributes["heimdall.version"] == "1"


def test_a_hit_has_no_call_and_a_repetition_shows(collector: Any, start: Callable[..., Any], drawn: Any) -> None:  # noqa: ANN401
    """A known capture ends at the lookup; with the predictor gone there are two attempts, and the spans have failed."""
    predictor, transformer = start(collector.url)
    body = json.dumps({"iq_data": drawn.iq[0].tolist()}).encode()
    for _ in range(2):
        assert transformer.call("POST", PREDICT, body).status == 200
        time.sleep(0.1)  # the answer is stored behind the first one
    assert transformer.call("POST", PREDICT, body, HEADERS).status == 200
    hit = collector.trace(TRACE, 3)
    assert sorted(one.name for one in hit) == ["POST", "arm", "cache lookup"]
    assert _one(hit, "transformer", "cache lookup").attributes["heimdall.cache.hits"] == 1
    predictor.stop(9)
    other = HEADERS | {"traceparent": f"00-{TRACE[::-1]}-{CLIENT}-01"}
    body = json.dumps({"iq_data": drawn.iq[1].tolist()}).encode()
    assert transformer.call("POST", PREDICT, body, other).status == 503
    spans = collector.trace(TRACE[::-1], 7)
    attempts = [one for one in spans if one.name == "arm"]
    assert [one.attributes["heimdall.attempt"] for one in attempts] == [1, 2]
    assert all(one.failed for one in attempts)
    assert _one(spans, "transformer", "POST", SERVER).attributes["error.type"] == "503"


def test_a_client_that_does_not_sample_is_heeded(collector: Any, start: Callable[..., Any], drawn: Any) -> None:  # noqa: ANN401
    """W3C's flag "not sampled" means no spans; the predictor still gets the client's trace."""
    _, transformer = start(collector.url)
    body = json.dumps({"iq_data": drawn.iq[0].tolist()}).encode()
    quiet = HEADERS | {"traceparent": f"00-{TRACE}-{CLIENT}-00"}
    assert transformer.call("POST", PREDICT, body, quiet).status == 200
    assert collector.trace(TRACE, 1, seconds=1.0) == []


def test_a_collector_that_is_away_costs_nobody_anything(start: Callable[..., Any], drawn: Any) -> None:  # noqa: ANN401
    """Requests are answered, the log says so, and the processes end in time."""
    predictor, transformer = start("http://127.0.0.1:9")
    body = json.dumps({"iq_data": drawn.iq[0].tolist()}).encode()
    assert transformer.call("POST", PREDICT, body, HEADERS).status == 200
    began_s = time.monotonic()
    assert (transformer.stop(), predictor.stop()) == (0, 0)
    assert time.monotonic() - began_s < 12.0
