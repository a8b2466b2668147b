from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reference.arrays import F32
    from reference.simulate import Captures

MODEL = "/v2/models/localization"


def test_a_dead_predictor_and_its_return(
    fleet: Any,  # noqa: ANN401 - of conftest.py
    model_dir: Callable[[str], Path],
    drawn: Captures,
    tmp_path: Path,
) -> None:
    """Without a predictor: 503 with Retry-After at once, not ready. With it back, under a new contract: one resend."""
    folder = shutil.copytree(model_dir("reference"), tmp_path / "model")
    predictor = fleet.predictor(folder)
    transformer = fleet.transformer(predictor.address, "--enable_grpc", "false")
    iq = drawn.iq[:1]
    before = transformer.infer(iq, cache=False)
    assert transformer.ready()

    predictor.stop(signal.SIGKILL)
    started_s = time.monotonic()
    answer = transformer.infer_raw(_request(iq))
    assert time.monotonic() - started_s < 5.0
    assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer.body
    assert "predictor" in answer.error
    assert transformer.call("GET", "/health").status == 503
    assert not transformer.ready()
    assert transformer.call("GET", f"{MODEL}/ready").status == 503

    _write_contract(folder, full_scale_dbm=-50.5)
    fleet.predictor(folder, http_port=predictor.http_port)
    after = transformer.infer(iq, cache=False)
    assert after.parameters["contract_digest"] != before.parameters["contract_digest"]
    assert after.parameters["model_digest"] == before.parameters["model_digest"]
    assert transformer.ready()
    assert transformer.call("GET", MODEL).json["parameters"]["contract_digest"] == after.parameters["contract_digest"]
    expected = transformer.infer(iq, full_scale_dbm=-50.5, cache=False)
    assert after.output("position").array.tobytes() == expected.output("position").array.tobytes()


def test_the_only_predictor_is_waited_for(
    fleet: Any,  # noqa: ANN401 - of conftest.py
    model_dir: Callable[[str], Path],
    drawn: Captures,
) -> None:
    """In one pod with its predictor a transformer answers what came during a restart; without that, or in vain, 503."""
    predictor = fleet.predictor(model_dir("reference"))
    transformer = fleet.transformer(predictor.address, "--enable_grpc", "false", "--predictor_restart_s", "30")
    before = transformer.infer(drawn.iq[:1], cache=False)
    predictor.stop(signal.SIGKILL)
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(transformer.infer_raw, _request(drawn.iq[:1])) for _ in range(20)]
        _wait_for_metric(transformer, "transformer_requests_in_flight 20.0")
        assert not any(one.done() for one in waiting)
        fleet.predictor(model_dir("reference"), http_port=predictor.http_port)
        assert {one.result().status for one in waiting} == {200}
    after = transformer.infer(drawn.iq[:1], cache=False)
    assert after.output("position").array.tobytes() == before.output("position").array.tobytes()
    _wait_for_metric(transformer, 'transformer_retries_total{reason="restart"} 20.0')


def _wait_for_metric(transformer: Any, line: str) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    deadline_s = time.monotonic() + 15.0
    while line not in transformer.call("GET", "/metrics").body.decode().splitlines():
        assert time.monotonic() < deadline_s, line
        time.sleep(0.02)


def _write_contract(folder: Path, **changes: Any) -> None:  # noqa: ANN401 - any member
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    document = json.loads(session.get_modelmeta().custom_metadata_map["heimdall.contract"]) | changes
    (folder / "contract.json").write_text(json.dumps(document), encoding="utf-8")


def _request(iq: F32) -> InferRequest:
    return InferRequest((Tensor("iq", iq),), parameters={"cache": False})


def test_a_new_version_of_the_same_contract(
    fleet: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    model_dir: Callable[[str], Path],
    drawn: Captures,
) -> None:
    """A predictor replaced by another version is named in the very next answer, although no conflict told of it."""
    predictor = fleet.predictor(model_dir("reference"))
    transformer = fleet.transformer(predictor.address, "--enable_grpc", "false")
    assert transformer.infer(drawn.iq[:1], cache=False).model_version == "1"
    assert predictor.stop() == 0
    fleet.predictor(model_dir("reference"), "--model_version", "2", http_port=predictor.http_port)
    assert transformer.infer(drawn.iq[:1], cache=False).model_version == "2"
    assert transformer.call("GET", MODEL).json["versions"] == ["2"]
    path = f"{MODEL}/versions/1/infer"
    assert transformer.infer_raw(_request(drawn.iq[:1]), path=path).status == 404


class _Fake(BaseHTTPRequestHandler):
    """A predictor that describes itself properly and answers inference as it was told."""

    protocol_version = "HTTP/1.1"
    metadata = b""
    status, answer, headers_sent, delay_s = 200, b"", {}, 0.0
    inferences = 0

    def do_GET(self) -> None:
        """Metadata and readiness."""
        self._send(200, b'{"ready":true}' if self.path.endswith("/ready") else self.metadata, {})

    def do_POST(self) -> None:
        """Inference."""
        type(self).inferences += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.delay_s)
        if self.status:
            self._send(self.status, self.answer, self.headers_sent)
        else:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _served(fake: type[_Fake]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), fake) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def fake(
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    new_fleet: Callable[[Path], AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[type[_Fake], Any]]:
    """A fake predictor with the real one's metadata, and a transformer in front of it."""
    _Fake.metadata = predictor.call("GET", MODEL).body
    with _served(_Fake) as address, new_fleet(tmp_path_factory.mktemp("fake")) as fleet:
        yield _Fake, fleet.transformer(address, "--enable_grpc", "false", "--predictor_request_timeout_seconds", "2")


FINE = '"model_name":"localization","model_version":"1"'


def _answer(position: str, uncertainty: str, confidence: str = "[0.5]", names: str = "position") -> bytes:
    def tensor(name: str, columns: int, data: str) -> str:
        rows = max(1, data.count(",") + 1) // columns
        return f'{{"name":"{name}","datatype":"FP64","shape":[{rows},{columns}],"data":{data}}}'

    outputs = (tensor(names, 2, position), tensor("uncertainty", 3, uncertainty), tensor("confidence", 1, confidence))
    return f'{{{FINE},"outputs":[{",".join(outputs)}]}}'.encode()


SIGMAS = "[1000,500,0.1]"


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected", "words"),
    [
        (200, _answer("[45,8]", SIGMAS), {}, 200, []),
        (409, b'{"error":"another contract","contract_digest":"sha256:0"}', {}, 502, ["409"]),
        (200, b"garbage", {}, 502, []),
        (200, b"{}", {}, 502, []),
        (200, _answer("[45,8]", SIGMAS, names="place"), {}, 502, ["position", "missing"]),
        (200, _answer("[95,8]", SIGMAS), {}, 502, ["position", "item 0"]),
        (200, _answer("[45,8,45,8]", "[1,1,0,1,1,0]", "[0.5,0.5]"), {}, 502, ["position", "number of items"]),
        (200, _answer("[45,8]", "[1000,0,0.1]"), {}, 502, ["uncertainty", "above 0"]),
        (200, _answer("[45,8]", SIGMAS, "[1.5]"), {}, 502, ["confidence"]),
        (200, _answer("[45,8]", SIGMAS)[:-1], {"Inference-Header-Content-Length": "10"}, 502, []),
        (302, b"", {"Location": "/elsewhere"}, 502, ["302"]),
        (500, b'{"error":"the model failed on this request"}', {}, 500, ["failed"]),
        (503, b'{"error":"the queue is full"}', {"Retry-After": "7"}, 503, ["queue"]),
        (503, b"<html>no healthy upstream</html>", {}, 503, ["503"]),
        (504, b"<html></html>", {}, 504, ["504"]),
        (0, b"", {}, 503, ["predictor", "before"]),
    ],
)
def test_what_the_predictor_answers(
    fake: tuple[type[_Fake], Any],
    drawn: Captures,
    status: int,
    body: bytes,
    headers: dict[str, str],
    expected: int,
    words: list[str],
) -> None:
    """Its errors keep their status; what makes no sense is 502; only what nobody answered for is sent again."""
    handler, transformer = fake
    handler.status, handler.answer, handler.headers_sent, handler.delay_s = status, body, headers, 0.0
    handler.inferences = 0
    answer = transformer.infer_raw(_request(drawn.iq[:1]))
    assert answer.status == expected, answer.body
    assert all(word in answer.error for word in words), answer.error
    gateway = status == 503 and body.startswith(b"<")
    assert handler.inferences == (6 if gateway else 2 if status in {0, 409} else 1)
    assert (expected == 503) == ("retry-after" in answer.headers)
    if "Retry-After" in headers:
        assert answer.headers["retry-after"] == headers["Retry-After"]


def test_a_silent_predictor(fake: tuple[type[_Fake], Any], drawn: Captures) -> None:
    """The predictor's share of the time is kept, whichever is shorter: its own or the client's."""
    handler, transformer = fake
    handler.status, handler.answer, handler.headers_sent = 200, _answer("[45,8]", SIGMAS), {}
    handler.delay_s = 10.0
    started_s = time.monotonic()
    assert transformer.infer_raw(_request(drawn.iq[:1])).status == 504
    assert 2.0 <= time.monotonic() - started_s < 6.0
    encoded = encode_request(_request(drawn.iq[:1]))
    headers = {"Inference-Header-Content-Length": str(encoded.json_size), "x-request-timeout-ms": "200"}
    started_s = time.monotonic()
    assert transformer.call("POST", f"{MODEL}/infer", encoded.body, headers).status == 504
    assert time.monotonic() - started_s < 1.8
