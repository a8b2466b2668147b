from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.http
from held_port import held_port
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from oip.grpc_budget import MAX_RPCS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INFER = "/v2/models/echo/infer"


class Process:
    """A running echo server."""

    def __init__(self, *options: str) -> None:
        self.http_port, self.grpc_port = held_port(), held_port()
        ports = ("--http_port", str(self.http_port), "--grpc_port", str(self.grpc_port))
        script = str(Path(__file__).with_name("echo_server.py"))
        self.process = subprocess.Popen([sys.executable, script, *ports, *options], stderr=subprocess.PIPE, text=True)

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        """One GET on a connection of its own."""
        return self.request("GET", path)

    def infer(self, seconds: float = 0) -> tuple[int, dict[str, str], Any]:
        """One inference that takes so long."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}
        return self.request("POST", INFER, json.dumps({"inputs": [tensor], "parameters": {"seconds": seconds}}))

    def request(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str], Any]:
        """One request on a connection of its own: status, headers, JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, json.loads(response.read())
        finally:
            connection.close()

    def grpc_infer(self, seconds: float = 0, values: int = 1) -> float:
        """One inference over gRPC of so many values that takes so long; the first value of its answer."""
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[values])
        message = pb.ModelInferRequest(
            model_name="echo",
            inputs=[tensor],
            raw_input_contents=[np.full(values, 1.5, "<f4").tobytes()],
            parameters={"seconds": pb.InferParameter(string_param=str(seconds))},
        )
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=20, wait_for_ready=True)
        return float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0])

    def wait_until_ready(self) -> None:
        """Until the HTTP port answers."""
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and self.process.poll() is None:
            with suppress(OSError):
                self.get("/v2/health/ready")
                return
            time.sleep(0.05)
        raise AssertionError(self.process.communicate()[1])

    def wait_until_in_flight(self, count: int) -> None:
        """Until so many requests have reached the model."""
        _wait(lambda: int(self.get("/v2")[2]["version"].split()[1]) == count)

    def wait_until_draining(self) -> None:
        """Until it has taken note of a signal."""
        _wait(lambda: self.get("/v2/health/ready")[0] == 503)


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@contextmanager
def running(*options: str) -> Iterator[Process]:
    """An echo server that is ready, and is gone afterwards."""
    server = Process(*options)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def test_nothing_is_lost_on_sigterm() -> None:
    """SIGTERM: new requests are still served while draining, those in flight end well on HTTP and gRPC, exit code 0."""
    with running("--drain_s", "2") as server, ThreadPoolExecutor(4) as pool:
        assert server.get("/v2")[2]["version"].startswith("uvloop")
        assert server.grpc_infer() == 1.5
        slow = [pool.submit(server.infer, 4), pool.submit(server.grpc_infer, 4)]
        server.wait_until_in_flight(2)
        busy = [pool.submit(_ask_until_refused, server) for _ in range(2)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until_draining()
        status, headers, _ = server.infer()
        assert (status, headers["connection"]) == (200, "close")
        assert slow[0].result(20)[0] == 200
        assert slow[1].result(20) == 1.5
        for future in busy:
            statuses = future.result(20)
            assert len(statuses) > 20
            assert set(statuses) == {200}
        assert server.process.wait(20) == 0
        with pytest.raises(ConnectionRefusedError):
            server.get("/v2")


def _ask_until_refused(server: Process) -> list[int]:
    statuses = []
    while True:
        try:
            statuses.append(server.infer(0.01)[0])
        except ConnectionRefusedError:
            return statuses


def test_second_signal_ends_at_once() -> None:
    """Whoever asks twice does not wait for what is in flight."""
    with running("--drain_s", "30", "--workers", "3") as server, ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(server.infer, 15), pool.submit(server.grpc_infer, 15)]
        server.wait_until_in_flight(2)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until_draining()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert all(future.exception(10) is not None for future in slow)


def test_tritonclient_and_the_sdk_behind(echo: Process) -> None:
    """NVIDIA's client over a real socket, both encodings; the SDK's own routes still answer behind ours."""
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{echo.http_port}")
    try:
        assert client.is_server_ready()
        assert client.is_model_ready("echo")
        for binary in (True, False):
            tensor = tritonclient.http.InferInput("x", [2], "FP32")
            tensor.set_data_from_numpy(np.array([1, 2], "<f4"), binary_data=binary)
            outputs = [tritonclient.http.InferRequestedOutput("x", binary_data=binary)]
            for compression in (None, "gzip", "deflate"):
                result = client.infer("echo", [tensor], outputs=outputs, request_compression_algorithm=compression)
                assert result.as_numpy("x").tolist() == [1, 2]
    finally:
        client.close()
    assert echo.get("/v1/models")[2] == {"models": ["echo"]}
    status, headers, _ = echo.get("/v2/nope")
    assert status == 404
    assert not {"server", "date"} & set(headers)


def test_refused_body_answers_before_it_closes(echo: Process) -> None:
    """A client that sends 65 MiB in one go still reads its 413 instead of a reset connection."""
    connection = http.client.HTTPConnection("127.0.0.1", echo.http_port, timeout=20)
    connection.request("POST", INFER, bytes(65 * 1024 * 1024))
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (413, "close")
    assert "error" in json.loads(response.read())
    connection.close()


def test_taken_port_is_said(echo: Process) -> None:
    """A port that cannot be bound ends the process with a code other than 0."""
    taken = subprocess.run(
        [*echo.process.args[:2], "--http_port", str(echo.http_port), "--enable_grpc", "false"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert taken.returncode != 0
    assert "address already in use" in (taken.stdout + taken.stderr).lower()


def test_both_protocols_share_the_budget_of_bodies() -> None:
    """While a gRPC message holds nearly all of it, another one is UNAVAILABLE and a body over HTTP is 503."""
    with running("--max_bodies_bytes", "100000") as server, ThreadPoolExecutor(1) as pool:
        assert server.grpc_infer(values=24_000) == 1.5
        slow = pool.submit(server.grpc_infer, 3, 24_000)
        server.wait_until_in_flight(1)
        with pytest.raises(grpc.RpcError) as caught:
            server.grpc_infer(values=2_000)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.request("POST", INFER, " " * 8_000)[0] == 503
        assert slow.result(20) == 1.5
        assert server.grpc_infer(values=24_000) == 1.5


def test_calls_of_grpc_at_once_are_limited() -> None:
    """More than a hundred clients find room; of many more, the rest is refused at once, and nobody waits in memory."""
    message = pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1])],
        raw_input_contents=[np.float32(1.5).tobytes()],
        parameters={"seconds": pb.InferParameter(string_param="4")},
    )
    with running() as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        server.grpc_infer()
        calls = [GRPCInferenceServiceStub(channel).ModelInfer.future(message, timeout=20) for _ in range(200)]
        codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == MAX_RPCS > 100
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 200 - MAX_RPCS


def test_what_ends_beside_the_server_is_told() -> None:
    """Work beside the server that breaks leaves a line with its trace at once, and the server serves on."""
    with running("--broken_background") as server:
        assert server.infer()[0] == 200
        server.process.send_signal(signal.SIGTERM)
        told = server.process.communicate(timeout=20)[1]
    assert "what runs beside the server has ended" in told
    assert "something beside broke" in told


@pytest.fixture(scope="module")
def echo() -> Iterator[Process]:
    """A server for the tests that leave it alive."""
    with running("--enable_grpc", "false") as server:
        yield server
