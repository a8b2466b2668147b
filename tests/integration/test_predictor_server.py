"""The predictor as its users meet it: a process, started with arguments, spoken to over sockets, ended by a signal."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import kserve
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from held_port import held_port
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running predictor."""

    process: subprocess.Popen[str]
    http: str
    grpc: str
    errors: list[str] = field(default_factory=list)

    def call(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, JSON body and headers of one HTTP request."""
        request = urllib.request.Request(f"http://{self.http}{path}", data=body, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), error.headers

    def infer(self, inputs: list[dict[str, Any]], **members: object) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """The answer to a V2 request in JSON."""
        return self.call("/v2/models/m/infer", json.dumps({"inputs": inputs, **members}).encode())


@contextmanager
def _serving(model_dir: Path, *options: str) -> Iterator[Server]:
    ports = held_port(), held_port()
    command = [sys.executable, "-m", "predictor", "--model_name=m", f"--model_dir={model_dir}", "--drain_s=0"]
    command += [f"--http_port={ports[0]}", f"--grpc_port={ports[1]}", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        server = Server(process, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        reader = threading.Thread(target=lambda: server.errors.extend(process.stderr or []))
        reader.start()
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
                reader.join()


def _wait_until_ready(server: Server) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and server.process.poll() is None:
        try:
            if server.call("/v2/health/ready")[0] == 200:
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    pytest.fail("the predictor did not become ready:\n" + "".join(server.errors))


def _write(path: Path, graph: Any) -> None:  # noqa: ANN401 - onnx ships no types
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"heimdall.contract": '{"schema":"a/1"}'})
    path.write_bytes(model.SerializeToString())


def _tensor(name: str, kind: int, *shape: int | str) -> Any:  # noqa: ANN401 - onnx ships no types
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 3 of a model: `hidden` = tanh(`x` w), `sum` = `x` + `x`, and `echo` = `text`."""
    weights = np.random.default_rng(3).normal(size=(128, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Tanh", ["product"], ["hidden"]),
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node("Identity", ["text"], ["echo"]),
    ]
    inputs = [_tensor("x", TensorProto.FLOAT, "batch", 7, 32, 128), _tensor("text", TensorProto.STRING, "batch")]
    outputs = [
        _tensor("hidden", TensorProto.FLOAT, "batch", 7, 32, 6),
        _tensor("sum", TensorProto.FLOAT, "batch", 7, 32, 128),
        _tensor("echo", TensorProto.STRING, "batch"),
    ]
    directory = tmp_path_factory.mktemp("models")
    _write(
        directory / "3/model.onnx",
        helper.make_graph(nodes, "several", inputs, outputs, [numpy_helper.from_array(weights, "w")]),
    )
    return directory


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[Server]:
    """The model above, served over HTTP and gRPC."""
    with _serving(model_dir, "--max_body_bytes=4000000") as server:
        yield server


X = np.random.default_rng(4).normal(size=(2, 7, 32, 128)).astype(np.float32)
TEXT = np.array([b"Torino", "Città".encode()], object)


def _expected(model_dir: Path) -> dict[str, np.ndarray[Any, Any]]:
    session = ort.InferenceSession(model_dir / "3/model.onnx", providers=["CPUExecutionProvider"])
    names = ["hidden", "sum"]
    feed = {"x": X, "text": np.array([one.decode() for one in TEXT], object)}
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("version", ["", "3"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_sees_what_the_runtime_computes(
    server: Server, model_dir: Path, version: str, *, binary: bool
) -> None:
    """A foreign client gets, in binary and in JSON, with and without a version, exactly what onnxruntime computes."""
    client = triton.InferenceServerClient(server.http)
    assert client.is_server_ready()
    assert client.is_model_ready("m", version)
    x, text = triton.InferInput("x", X.shape, "FP32"), triton.InferInput("text", TEXT.shape, "BYTES")
    x.set_data_from_numpy(X, binary_data=binary)
    text.set_data_from_numpy(TEXT, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("sum", "hidden", "echo")]
    answer = client.infer("m", [x, text], version, outputs=outputs, request_id="r1")
    for name, expected in _expected(model_dir).items():
        np.testing.assert_array_equal(answer.as_numpy(name), expected)
    assert [one if binary else one.encode() for one in answer.as_numpy("echo")] == TEXT.tolist()
    told = answer.get_response()
    assert (told["model_version"], told["id"]) == ("3", "r1")
    assert [one["name"] for one in told["outputs"]] == ["sum", "hidden", "echo"]
    assert told["parameters"]["contract_digest"].startswith("sha256:")
    client.close()


def test_metadata_with_the_triton_client(server: Server) -> None:
    """A foreign client reads name, versions, tensors and, as parameter, the contract."""
    client = triton.InferenceServerClient(server.http)
    told = client.get_model_metadata("m", "3")
    assert (told["platform"], told["versions"]) == ("onnxruntime_onnx", ["3"])
    assert told["inputs"][1] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert told["parameters"]["contract"] == '{"schema":"a/1"}'
    client.close()


async def test_grpc_client_of_kserve(server: Server, model_dir: Path) -> None:
    """The SDK's gRPC client gets the same numbers, and readiness."""
    client = kserve.InferenceGRPCClient(server.grpc)
    assert await client.is_server_ready()
    assert await client.is_model_ready("m")
    x, text = kserve.InferInput("x", list(X.shape), "FP32"), kserve.InferInput("text", [2], "BYTES")
    x.set_data_from_numpy(X)
    text.set_data_from_numpy(TEXT)
    answer = await client.infer(kserve.InferRequest("m", [x, text]))
    for name, expected in _expected(model_dir).items():
        np.testing.assert_array_equal(answer.get_output_by_name(name).as_numpy(), expected)
    assert answer.model_version == "3"
    await client.close()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (pb.ModelInferRequest(model_name="m"), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ModelInferRequest(model_name="m", model_version="2"), grpc.StatusCode.NOT_FOUND),
        (pb.ModelInferRequest(model_name="other"), grpc.StatusCode.NOT_FOUND),
        (
            pb.ModelInferRequest(model_name="m", parameters={"contract_digest": pb.InferParameter(string_param="x")}),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
    ],
)
def test_grpc_statuses(server: Server, message: pb.ModelInferRequest, status: grpc.StatusCode) -> None:
    """Each mistake has its gRPC status, and a message."""
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=10)
    assert caught.value.code() is status
    assert caught.value.details()


TEXT_INPUT = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    ("inputs", "members", "status", "message"),
    [
        ([TEXT_INPUT], {}, 400, "inputs: missing 'x'"),
        ([{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], {}, 400, "inputs[0].shape: 'x' is"),
        ([{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}], {}, 400, "inputs[0].datatype: 'x' is FP32"),
        ([{"name": "q", "datatype": "INT8", "shape": [1], "data": [1]}], {}, 400, "no input 'q'"),
        ([], {}, 400, "inputs"),
        ([TEXT_INPUT], {"parameters": {"contract_digest": "sha256:0"}}, 409, "sha256:0"),
    ],
)
def test_bad_requests(
    server: Server, inputs: list[dict[str, Any]], members: dict[str, Any], status: int, message: str
) -> None:
    """Wrong requests are answered 4xx with an `error` that names the field; a wrong contract is told the right one."""
    answer = server.infer(inputs, **members)
    assert answer[0] == status
    assert message in answer[1]["error"]
    if status == 409:
        assert answer[1]["contract_digest"].startswith("sha256:")


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/m/versions/1", "/v2/models/m/versions/1/ready"])
def test_unknown_models(server: Server, path: str) -> None:
    """Another model or version is 404 with an `error`."""
    status, body, _ = server.call(path)
    assert (status, list(body)) == (404, ["error"])


def test_oversized_bodies(server: Server) -> None:
    """A body over the limit is refused with 413, a small one that unfolds beyond it as well."""
    body = b" " * 5_000_000
    for sent, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        status, told, _ = server.call("/v2/models/m/infer", sent, headers)
        assert (status, list(told)) == (413, ["error"])


def test_v1_says_why_not(server: Server) -> None:
    """V1 knows no names of inputs: a model with two of them answers 400 and points to V2."""
    status, body, _ = server.call("/v1/models/m:predict", b'{"instances": [1]}')
    assert (status, body) == (400, {"error": "V1 serves models with one input only; use /v2"})


@pytest.fixture
def slow_dir(tmp_path: Path) -> Path:
    """A model that goes `n` times round a loop of matrix products: as slow as the request says, at once for zero."""
    weights = numpy_helper.from_array(np.eye(128, dtype=np.float32), "w")
    square = [_tensor(name, TensorProto.FLOAT, 128, 128) for name in ("before", "after")]
    keep = [_tensor(name, TensorProto.BOOL) for name in ("keep_in", "keep_out")]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "w"], ["after"]),
            helper.make_node("Identity", ["keep_in"], ["keep_out"]),
        ],
        "body",
        [_tensor("i", TensorProto.INT64), keep[0], square[0]],
        [keep[1], square[1]],
    )
    yes = numpy_helper.from_array(np.ones((), bool), "yes")
    loop = helper.make_node("Loop", ["n", "yes", "w"], ["y"], body=body)
    inputs, outputs = [_tensor("n", TensorProto.INT64)], [_tensor("y", TensorProto.FLOAT, 128, 128)]
    _write(tmp_path / "model.onnx", helper.make_graph([loop], "slow", inputs, outputs, [weights, yes]))
    return tmp_path


def _rounds(seconds: float, server: Server) -> list[dict[str, Any]]:
    """The input that keeps the slow model busy for about so long, on whatever machine this is."""
    probe = [{"name": "n", "datatype": "INT64", "shape": [], "data": [2000]}]
    probes_s = []
    for _ in range(3):
        started_s = time.monotonic()
        assert server.infer(probe)[0] == 200
        probes_s.append(time.monotonic() - started_s)
    rounds = int(2000 * seconds / min(probes_s))  # the shortest: everything else on the machine can only add to it
    return [{"name": "n", "datatype": "INT64", "shape": [], "data": [rounds]}]


def _wait_until_accepted(server: Server, count: int) -> None:
    """Until so many requests are waiting or running."""
    deadline_s = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=20) as answer:
            if f'predictor_in_flight{{model="m"}} {count}.0' in answer.read().decode():
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_full_queue_and_drain(slow_dir: Path) -> None:
    """With worker and queue taken the next request is 503 at once, probes answer meanwhile; SIGTERM loses nothing."""
    with _serving(slow_dir, "--execution_threads=1", "--max_queue=1", "--enable_grpc=false") as server:
        slow = _rounds(1.5, server)
        with ThreadPoolExecutor(2) as threads:
            accepted = [threads.submit(server.infer, slow) for _ in range(2)]
            _wait_until_accepted(server, 2)
            status, body, headers = server.infer(slow)
            assert server.call("/v2/health/live")[0] == 200
            assert not any(one.done() for one in accepted)
            assert (status, list(body), headers["Retry-After"]) == (503, ["error"], "1")
            server.process.send_signal(signal.SIGTERM)
            assert [one.result()[0] for one in accepted] == [200, 200]
        assert server.process.wait(20) == 0


def _runs(server: Server) -> int:
    """How many runs of the model have ended."""
    return int(server.call("/v2/models/m/stats")[1]["model_stats"][0]["execution_count"])


def test_a_deadline_of_the_client(slow_dir: Path) -> None:
    """A client's smaller time budget ends its request with 504 while the model still runs."""
    with _serving(slow_dir, "--enable_grpc=false") as server:
        body = json.dumps({"inputs": _rounds(1.0, server)}).encode()
        before = _runs(server)
        status, told, _ = server.call("/v2/models/m/infer", body, {"x-request-timeout-ms": "100"})
        assert (status, list(told)) == (504, ["error"])
        assert _runs(server) == before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_a_run_that_outlasts_the_end(slow_dir: Path) -> None:
    """A run whose client has given up keeps no pod for long: it is abandoned, the log says so, and the exit is 0."""
    with _serving(slow_dir, "--enable_grpc=false") as server:
        body = json.dumps({"inputs": _rounds(25.0, server)}).encode()
        assert server.call("/v2/models/m/infer", body, {"x-request-timeout-ms": "100"})[0] == 504
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    last = json.loads(server.errors[-1])
    assert last["level"] == "WARNING"
    assert last["message"].startswith("abandoned at the end")


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (b"nonsense", (), "model.onnx is not a model that can be run"),
        (None, ("--max_queue=-1", "--model_version=x"), "--model_version 'x': "),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, content: bytes | None, options: tuple[str, ...], reason: str) -> None:
    """The process ends with 1, and its last line names the reason; no traceback."""
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    command = [sys.executable, "-m", "predictor", f"--model_dir={tmp_path}", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False, env=dict(os.environ))
    assert ended.returncode == 1
    *before, last = ended.stderr.splitlines()
    assert last.startswith("predictor: ")
    assert reason in last
    assert all(line.startswith("{") for line in before), "only log lines come before it"
