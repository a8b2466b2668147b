"""Versions, the repository extension, figures and the end of life of the predictor, over sockets."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.http as triton
from held_port import held_port
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/m/infer"
ONE = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}).encode()


class Predictor:
    """A running predictor."""

    def __init__(self, model_dir: Path, *options: str) -> None:
        self.http_port, self.grpc_port = held_port(), held_port()
        command = [sys.executable, "-m", "predictor", "--model_name=m", f"--model_dir={model_dir}"]
        command += [f"--http_port={self.http_port}", f"--grpc_port={self.grpc_port}", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.errors = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            self.errors = pipe.read()

    def call(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON of one request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def factor(self, path: str = INFER) -> float:
        """What the model multiplies by."""
        return float(self.call(path, ONE)[1]["outputs"][0]["data"][0])

    def wait_until_ready(self) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and self.process.poll() is None:
            try:
                if self.call("/v2/health/ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.errors.decode())

    def end(self) -> None:
        """Gone, in any case."""
        self.process.kill()
        self.process.wait(20)
        self._reader.join()


@contextmanager
def _running(model_dir: Path, *options: str) -> Iterator[Predictor]:
    predictor = Predictor(model_dir, *options)
    try:
        predictor.wait_until_ready()
        yield predictor
    finally:
        predictor.end()


def _write(folder: Path, factor: float, side: int = 2) -> None:
    """`y` = `x` × `factor`, by way of a product of matrices."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = numpy_helper.from_array(np.eye(side, dtype=np.float32) * factor, "w")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", side]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "m", tensors[:1], tensors[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_nobody_unloads_by_default(tmp_path: Path) -> None:
    """Neither over HTTP nor over gRPC; figures are there, and the metadata lists the extension."""
    _write(tmp_path / "1", 3)
    with _running(tmp_path) as server:
        for path in ("/v2/repository/models/m/unload", "/v2/repository/models/m/load", "/v2/repository/index"):
            status, body = server.call(path, b"{}")
            assert (status, list(body)) == (501, ["error"])
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            for call, message in (
                (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="m")),
                (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="m")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(message, timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
            raw = np.ones((1, 2), np.float32).tobytes()
            stub.ModelInfer(pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[raw]), timeout=10)
        assert server.factor() == 3
        assert server.call("/v2")[1]["extensions"] == ["binary_tensor_data", "statistics"]
        client = triton.InferenceServerClient(f"127.0.0.1:{server.http_port}")
        (told,) = client.get_inference_statistics("m")["model_stats"]
        client.close()
        assert (told["version"], told["inference_stats"]["success"]["count"], told["execution_count"]) == ("1", 2, 2)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'predictor_requests_total{code="200",model="m",version="1"} 2.0' in text
        assert 'predictor_model_info{contract_digest="",model="m",model_digest="sha256:' in text


def test_versions_and_the_repository(tmp_path: Path) -> None:
    """Versions answer under their URL; load, a broken version, and unload do what the extension says."""
    _write(tmp_path / "1", 1)
    _write(tmp_path / "2", 2)
    with _running(tmp_path, "--repository_api=true", "--also_versions=1") as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.http_port}")
        assert (server.factor(), server.factor("/v2/models/m/versions/1/infer")) == (2, 1)
        _write(tmp_path / "3", 3)
        client.load_model("m")
        assert server.factor() == 3
        (tmp_path / "4").mkdir()
        (tmp_path / "4/model.onnx").write_bytes(b"nonsense")
        with pytest.raises(Exception, match="could not be loaded"):
            client.load_model("m")
        assert server.factor() == 3
        index = {one["version"]: one for one in client.get_model_repository_index()}
        assert {version: one["state"] for version, one in index.items()} == {
            "1": "READY",
            "3": "READY",
            "4": "UNAVAILABLE",
        }
        assert "not a model that can be run" in index["4"]["reason"]
        client.unload_model("m")
        assert not client.is_model_ready("m")
        assert server.call(INFER, ONE)[0] == 503
        client.close()


def test_all_versions_with_a_broken_one(tmp_path: Path) -> None:
    """A broken folder keeps nobody from starting; who may not load may still read why it is missing."""
    for version in (1, 2, 3):
        _write(tmp_path / str(version), version)
    (tmp_path / "1/model.onnx").write_bytes(b"nonsense")
    with _running(tmp_path, "--also_versions=all", "--enable_grpc=false") as server:
        assert (server.factor(), server.factor("/v2/models/m/versions/2/infer")) == (3, 2)
        status, index = server.call("/v2/repository/index", b"")
        assert status == 200
        assert [one["version"] for one in index if one["state"] == "UNAVAILABLE"] == ["1"]
        assert server.call("/v2/repository/models/m/unload", b"")[0] == 501


def test_following_a_folder(tmp_path: Path) -> None:
    """A version that appears is served without a word; the log says so in JSON."""
    _write(tmp_path / "1", 1)
    with _running(tmp_path, "--follow_s=0.05", "--enable_grpc=false") as server:
        _write(tmp_path / "2", 2)
        deadline_s = time.monotonic() + 20
        while server.factor() != 2:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert server.call("/v2/repository/index", b"")[0] == 200
        assert server.call("/v2/repository/models/m/unload", b"")[0] == 501
    lines = [json.loads(line) for line in server.errors.splitlines()]
    assert [one["version"] for one in lines if one["logger"] == "predictor.catalog"] == ["1", "2"]


def test_reloads_under_load() -> None:
    """Fifty clients see no failure and no mixed answer while versions come and go; `bench/reload.py` does 1,000."""
    command = [sys.executable, str(ROOT / "bench/reload.py"), "--reloads=25"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _ask_until_refused(server: Predictor, statuses: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    while True:
        try:
            connection.request("POST", INFER, ONE)
            answer = connection.getresponse()
            json.loads(answer.read())
            statuses.append(answer.status)
        except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
            if connection.sock is None or statuses[-1:] == [0]:
                return
            connection.close()  # it was idle and is closed: the request on it was never begun
            statuses.append(0)


@pytest.mark.parametrize("inline", ["200", "0"])
def test_the_end_under_load(tmp_path: Path, inline: str) -> None:
    """SIGTERM under load: every request that was begun is answered well, and the process ends with 0."""
    _write(tmp_path / "1", 1)
    with _running(tmp_path, "--enable_grpc=false", "--drain_s=0.5", f"--inline_run_us={inline}") as server:
        statuses: list[list[int]] = [[] for _ in range(8)]
        with ThreadPoolExecutor(8) as threads:
            clients = [threads.submit(_ask_until_refused, server, one) for one in statuses]
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            for client in clients:
                client.result(30)
        assert server.process.wait(20) == 0
        assert {status for one in statuses for status in one} <= {200, 0}
        assert min(len(one) for one in statuses) > 5


def test_who_leaves_frees_his_place(tmp_path: Path) -> None:
    """Requests whose client has gone while they waited are not run: the next client does not wait for them."""
    side = 1500
    _write(tmp_path / "1", 1, side)
    options = ("--enable_grpc=false", "--execution_threads=1", "--max_batch_size=1", "--inline_run_us=0")
    with _running(tmp_path, *options) as server:
        rows = 600
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [rows, side],
                        "parameters": {"binary_data_size": rows * side * 4},
                    }
                ],
                "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
            }
        ).encode()
        body = head + np.ones((rows, side), np.float32).tobytes()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30) for _ in range(16)]
        for connection in connections:
            connection.request("POST", INFER, body, headers)
        for connection in connections:
            connection.close()
        deadline_s = time.monotonic() + 20
        while True:
            (told,) = server.call("/v2/models/m/stats")[1]["model_stats"]
            with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            if 'predictor_queued{model="m"} 0.0' in text and 'code="499"' in text:
                break
            assert time.monotonic() < deadline_s, text
            time.sleep(0.05)
        assert told["execution_count"] < len(connections)
