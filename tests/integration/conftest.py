"""The two real servers as child processes on free ports of 127.0.0.1, and what it takes to talk to them.

A server's log goes to a file under build/, and is shown when the server does not come up.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from held_port import held_port

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from reference.simulate import captures
from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reference.simulate import Captures

JSON_SIZE = "inference-header-content-length"
INFER = "/v2/models/localization/infer"
_START_S, _STOP_S, _CALL_S = 60.0, 20.0, 60.0


@dataclass(frozen=True)
class Answer:
    """What a server answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The body as JSON; a NaN or an infinity in it fails the test."""
        return json.loads(self.body, parse_constant=pytest.fail)

    @property
    def error(self) -> str:
        """The message of the error object."""
        return str(self.json["error"])


class Server:
    """One running component.

    Args:
        component: "predictor" or "transformer".
        options: Command line options without those of the ports.
        log: Where its output goes.
        http_port: To be taken; 0 takes a free one.
    """

    def __init__(self, component: str, options: tuple[str, ...], log: Path, http_port: int = 0) -> None:
        self.http_port = http_port or held_port()
        self.grpc_port = held_port()
        self.log = log
        ports = ("--http_port", str(self.http_port), "--grpc_port", str(self.grpc_port))
        command = [sys.executable, "-m", component, "--model_name", "localization", *ports, *options]
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment())

    @property
    def address(self) -> str:
        """Host and port of HTTP."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.address}"

    def call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=_CALL_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read())
        finally:
            connection.close()

    def infer_raw(self, request: InferRequest, *, binary: bool = True, path: str = INFER) -> Answer:
        """One V2 request, whatever comes of it."""
        encoded = encode_request(request, binary=binary)
        headers = {} if encoded.json_size is None else {JSON_SIZE: str(encoded.json_size)}
        return self.call("POST", path, encoded.body, headers)

    def infer(self, iq: Any, *outputs: str, binary: bool = True, **parameters: Any) -> InferResponse:  # noqa: ANN401 - any array, any parameter
        """One V2 request that succeeds."""
        request = InferRequest(
            inputs=(Tensor("iq", iq),),
            parameters=parameters,
            outputs=tuple(RequestedOutput(name) for name in outputs),
            binary_output=binary,
        )
        answer = self.infer_raw(request, binary=binary)
        assert answer.status == 200, answer.body
        size = answer.headers.get(JSON_SIZE)
        return decode_response(answer.body, None if size is None else int(size))

    def ready(self) -> bool:
        """Whether it says so."""
        with suppress(OSError):
            return self.call("GET", "/v2/health/ready").status == 200
        return False

    def wait_until(self, condition: Callable[[], bool], seconds: float = _START_S) -> None:
        """Wait for it; the log is shown if it does not come true."""
        deadline_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                pytest.fail(f"not in time:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(_STOP_S)


class Fleet:
    """Starts servers, and ends those that are left."""

    def __init__(self, logs: Path, stack: ExitStack) -> None:
        self._logs = logs
        self._stack = stack
        self._count = 0

    def predictor(self, model_dir: Path, *options: str, http_port: int = 0) -> Server:
        """A predictor that is ready."""
        server = self._start(
            "predictor", ("--model_dir", str(model_dir), "--enable_grpc", "false", *options), http_port
        )
        server.wait_until(server.ready)
        return server

    def transformer(self, predictor_address: str, *options: str) -> Server:
        """A transformer that answers; it is ready when its predictor is."""
        server = self._start("transformer", ("--predictor_host", predictor_address, *options), 0)
        server.wait_until(lambda: _is_open(server.http_port))
        return server

    def _start(self, component: str, options: tuple[str, ...], http_port: int) -> Server:
        self._count += 1
        # Without a drain, because nobody is left to be told.
        server = Server(
            component, ("--drain_s", "0", *options), self._logs / f"{component}-{self._count}.log", http_port
        )
        self._stack.callback(_kill, server)
        return server


@contextmanager
def _fleet(logs: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(logs, stack)


def _kill(server: Server) -> None:
    server.process.terminate()
    try:
        server.process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def _environment() -> dict[str, str]:
    return os.environ | {"OPENBLAS_NUM_THREADS": "1"}


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@pytest.fixture(scope="session")
def model_dir(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """The folder of a variant of the reference model, made once and kept under build/."""

    def folder(name: str) -> Path:
        return prepare(pytestconfig.rootpath / "build" / "reference", (name,))[name]

    return folder


@pytest.fixture(scope="session")
def new_fleet() -> Callable[[Path], AbstractContextManager[Fleet]]:
    """Makes a fleet that logs to a folder; for fixtures that live longer than a test."""
    return _fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """For tests that need servers of their own."""
    with _fleet(tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def predictor(model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference model, served for the whole session."""
    with _fleet(tmp_path_factory.mktemp("predictor")) as fleet:
        yield fleet.predictor(model_dir("reference"))


@pytest.fixture(scope="session")
def transformer(predictor: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The transformer in front of it."""
    with _fleet(tmp_path_factory.mktemp("transformer")) as fleet:
        server = fleet.transformer(predictor.address)
        server.wait_until(server.ready)
        yield server


@pytest.fixture(scope="session")
def drawn() -> Captures:
    """Some simulated captures with truth."""
    return captures(31, 16)
