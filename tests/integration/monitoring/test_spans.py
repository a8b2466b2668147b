"""One trace from the client through transformer and predictor, as a collector sees it."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.http as v2
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "vendor=1", "x-request-id": "r-1"}
INTERNAL, SERVER, CALL = 1, 2, 3
"""Kinds of spans in OTLP's protobuf."""

PREDICT, INFER = "/api/v1/inference/predict", "POST /v2/models/{model}/infer"


ELSEWHERE = f"00-{TRACE[::-1]}-{CLIENT}"
"""Another client's trace, without its flags."""


@contextmanager
def _sending(endpoint: str) -> Iterator[None]:
    """Servers that are started meanwhile send spans there."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        environ.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield


@pytest.fixture(scope="module")
def transformer(
    collector: Any,  # noqa: ANN401 - of conftest.py
    new_fleet: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    model_dir: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A transformer in front of a predictor, both of which send spans."""
    with new_fleet(tmp_path_factory.mktemp("traced")) as fleet, _sending(collector.url):
        predictor = fleet.predictor(model_dir("reference"), "--inline_run_us", "0")
        server = fleet.transformer(predictor.address)
        server.wait_until(server.ready)
        yield server


def _infer(transformer: Any, iq: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    tensor = v2.InferInput("iq", iq.shape, "FP32")
    tensor.set_data_from_numpy(iq)
    with v2.InferenceServerClient(transformer.address) as client:
        client.infer("localization", [tensor], headers=HEADERS)


def _one(spans: list[Any], service: str, name: str, kind: int = INTERNAL) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    (found,) = [one for one in spans if (one.service, one.name, one.kind) == (f"heimdall-{service}", name, kind)]
    return found


def test_one_trace_from_client_to_session(collector: Any, transformer: Any, drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Every step is a span below the client's own, across both processes, and says what it was about."""
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
    assert outer.began_s <= arm.began_s <= call.began_s <= inner.began_s <= run.began_s < run.ended_s
    assert call.ended_s <= arm.ended_s <= outer.ended_s  # the predictor's own may end after its answer was read
    assert run.ended_s <= inner.ended_s
    assert outer.attributes["http.response.status_code"] == 200
    assert outer.attributes["heimdall.request_id"] == inner.attributes["heimdall.request_id"] == "r-1"
    assert (arm.attributes["heimdall.arm"], arm.attributes["heimdall.attempt"]) == ("stable", 1)
    assert run.attributes["heimdall.version"] == "1"
    assert run.attributes["heimdall.queue_s"] > 0


def test_grpc_is_traced_too(collector: Any, transformer: Any, drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A gRPC request's metadata carry the trace context, and its span has the method's name."""
    trace = "3" * 32
    tensor = pb.ModelInferRequest.InferInputTensor(name="iq", datatype="FP32", shape=[1, *drawn.iq.shape[1:]])
    request = pb.ModelInferRequest(
        model_name="localization", inputs=[tensor], raw_input_contents=[drawn.iq[4:5].tobytes()]
    )
    with grpc.insecure_channel(f"127.0.0.1:{transformer.grpc_port}") as channel:
        metadata = (("traceparent", f"00-{trace}-{CLIENT}-01"),)
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20, metadata=metadata)
    spans = collector.trace(trace, 7)
    outer = _one(spans, "transformer", "inference.GRPCInferenceService/ModelInfer", SERVER)
    assert outer.parent_id == CLIENT
    assert _one(spans, "transformer", "arm").parent_id == outer.span_id
    assert _one(spans, "predictor", "session run")


def test_a_hit_has_no_call(collector: Any, transformer: Any, drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The trace of a known capture ends at the lookup, over REST too."""
    body = json.dumps({"iq_data": drawn.iq[2].tolist()}).encode()
    assert transformer.call("POST", PREDICT, body).status == 200
    time.sleep(0.2)  # the answer is stored behind the first one
    assert transformer.call("POST", PREDICT, body, {"traceparent": f"{ELSEWHERE}-01"}).status == 200
    spans = collector.trace(TRACE[::-1], 3)
    assert sorted(one.name for one in spans) == ["POST", "arm", "cache lookup"]
    assert _one(spans, "transformer", "cache lookup").attributes["heimdall.cache.hits"] == 1


def test_a_client_that_does_not_sample_is_heeded(collector: Any, transformer: Any, drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """W3C's flag "not sampled" means no spans, in neither process."""
    quiet = "1" * 32
    body = json.dumps({"iq_data": drawn.iq[3].tolist()}).encode()
    headers = {"traceparent": f"00-{quiet}-{CLIENT}-00"}
    assert transformer.call("POST", PREDICT, body, headers).status == 200
    assert collector.trace(quiet, 1, seconds=1.0) == []


def test_every_attempt_is_a_span(collector: Any, fleet: Any, drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Without a predictor there are two attempts, and they and the whole request have failed."""
    with _sending(collector.url):
        alone = fleet.transformer("127.0.0.1:9")
    body = json.dumps({"iq_data": drawn.iq[0].tolist()}).encode()
    trace = "2" * 32
    assert alone.call("POST", PREDICT, body, {"traceparent": f"00-{trace}-{CLIENT}-01"}).status == 503
    spans = collector.trace(trace, 3)
    attempts = [one for one in spans if one.name == "arm"]
    assert [one.attributes["heimdall.attempt"] for one in attempts] == [1, 2]
    assert all(one.failed for one in attempts)
    assert _one(spans, "transformer", "POST", SERVER).attributes["error.type"] == "503"


def test_a_collector_that_is_away_costs_nobody_anything(fleet: Any, model_dir: Callable[[str], Path]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Requests are answered all the same, and the process ends in time."""
    with _sending("http://127.0.0.1:9"):
        predictor = fleet.predictor(model_dir("reference"))
    features = np.zeros((1, 7, 32, 128), np.float32)
    request = InferRequest((Tensor("log_mel", features),), binary_output=True)
    assert predictor.infer_raw(request).status == 200
    began_s = time.monotonic()
    assert predictor.stop() == 0
    assert time.monotonic() - began_s < 8.0
