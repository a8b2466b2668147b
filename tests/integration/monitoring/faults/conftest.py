"""Services with their faults side by side, because what takes the time is waiting, and a Prometheus that sees them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from held_port import held_port

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor
from reference.probe_set import open_folder, write_probe_set

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from oip.messages import Array

SERVERS = Path(__file__).parents[2] / "servers"
INFER, JSON_SIZE = "/v2/models/localization/infer", "inference-header-content-length"
FAR_DBM = -70.0
"""Full scale of samples from a transmitter so weak that the powers leave the model's range and the ellipses grow."""

BASELINE_S, PATIENCE_S = 25.0, 90.0
"""The drift alert compares a quarter of an hour, here 15 s, with what was before."""

FOLLOWING = ("--follow_s", "0.5")
"""Options of a predictor that loads whatever its folder holds."""

STOPPED_S, RUNNING_S = 1.2, 0.1
"""How long a predictor that is slow stands still, and works, in turn."""

HASTY_MS = 200
"""What clients allow that do not wait for it: far less than the latency objective, so that nothing else tells of it."""


@dataclass
class Traffic:
    """One client of one server: a request after the other, with a pause between them, until it is stopped.

    Attributes:
        port: The server's.
        captures: Samples [n, R, N, 2], taken in turn.
        pause_s: After each answer.
        fresh: Whether every request is a capture that was never seen.
        first: The number of the first one; no two clients send the same.
        items: In each request.
        allowed_ms: What the client allows a request to take; 0: as long as the server does.
        parameters: Of the requests; may be changed while it runs.
    """

    port: int
    captures: Array
    pause_s: float = 0.1
    fresh: bool = True
    items: int = 1
    allowed_ms: int = 0
    parameters: dict[str, float] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    first: int = field(default_factory=itertools.count(step=100_000).__next__)

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for number in itertools.count(self.first):
            if self.stopped.wait(self.pause_s):
                return
            with suppress(OSError, HTTPException):
                self._ask(number)

    def _ask(self, number: int) -> None:
        iq = np.roll(self.captures, -number, axis=0)[: self.items]
        if self.fresh:
            iq[:, 0, 0] = np.frombuffer(np.int64(number).tobytes(), "<i2").astype(np.float32)[:2] * 1e-8
        encoded = encode_request(InferRequest((Tensor("iq", iq),), parameters=self.parameters), binary=True)
        headers = {JSON_SIZE: str(encoded.json_size)}
        if self.allowed_ms:
            headers["x-request-timeout-ms"] = str(self.allowed_ms)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20.0)
        try:
            connection.request("POST", INFER, encoded.body, headers)
            connection.getresponse().read()
        finally:
            connection.close()


@dataclass
class World:
    """All services with their faults, and the Prometheus that sees them."""

    prometheus: Any
    fired: set[tuple[str, str, str]] = field(default_factory=set)

    def watch(self, expected: Collection[tuple[str, str, str]]) -> None:
        """Wait until all of this has fired at some time: service, alert, severity."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.fired.issuperset(expected) and time.monotonic() < deadline_s:
            self.fired |= self.prometheus.firing()
            time.sleep(0.5)


class Builder:
    """Starts services one by one; everything ends with `stack`."""

    def __init__(self, fleet: Any, model_dir: Any, target: Any, captures: Array, stack: ExitStack) -> None:  # noqa: ANN401 - of conftest.py
        self.fleet, self.model_dir, self.target = fleet, model_dir, target
        self.captures, self.stack = captures, stack
        self.targets: list[Any] = []

    def seen(self, service: str, component: str, server: Any) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """Have it scraped."""
        self.targets.append(self.target(server.address, service, component))
        return server

    def predictor(self, service: str, model: Path, *options: str) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """A predictor of a service."""
        return self.seen(service, "predictor", self.fleet.predictor(model, *options))

    def transformer(self, service: str, predictor: Any, *options: str) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """A transformer of a service."""
        return self.seen(service, "transformer", self.fleet.transformer(predictor.address, *options))

    def coverage_watch(self, service: str, url: str, probe_set: Path) -> None:
        """A process that sends the probe set to a service, and is scraped."""
        port = held_port()
        command = [sys.executable, "-m", "rollout.coverage_watch", "--url", url, "--probe-set", str(probe_set)]
        process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
        self.stack.callback(process.wait, 20)
        self.stack.callback(process.terminate)
        self.targets.append(self.target(f"127.0.0.1:{port}", service, "coverage-watch"))

    def traffic(self, server: Any, clients: int = 1, **options: Any) -> Traffic:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """Clients of a server, the last of them returned."""
        for _ in range(clients):
            traffic = Traffic(server.http_port, self.captures, **options)
            self.stack.callback(traffic.stopped.set)
            traffic.start()
        return traffic

    def copied(self, name: str, folder: Path, **members: Any) -> Path:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """A variant's file in a folder of its own, with some members of its contract replaced."""
        folder.mkdir()
        file = shutil.copy(self.model_dir(name) / "model.onnx", folder / "model.onnx")
        if members:
            (text,) = [one.value for one in onnx.load(file).metadata_props if one.key == "heimdall.contract"]
            (folder / "contract.json").write_text(json.dumps(json.loads(text) | members))
        return folder


PROBE_CAPTURES = 400
"""Enough to show that sigmas are half of what they should be."""

SWAPPED = {
    "position": {"name": "uncertainty", "unit": "degree"},
    "uncertainty": {"name": "position", "unit": "metre"},
}
"""A contract that takes one output for the other, so that the answers make no sense."""


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on the PATH")
    port = held_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def _deaf(port: int) -> socket.socket:
    """A socket that holds a port and refuses connections, so that no other process comes to answer there."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return holder


def _blind(builder: Builder, predictor: Any, folder: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A transformer in a cluster whose API server does not answer."""
    for name, text in (("token", "t"), ("namespace", "radio"), ("ca.crt", ssl.DER_cert_to_PEM_cert(b""))):
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("PYTHONPATH", str(SERVERS), prepend=os.pathsep)
        environ.setenv("CLUSTER_ACCOUNT", str(folder))
        environ.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        environ.setenv("KUBERNETES_SERVICE_PORT", "9")
        environ.setenv("HEIMDALL_INFERENCE_SERVICE", "loc")
        options = ("--predictor_host", predictor.address)
        server = builder.fleet._start("transformer_with_account", options, 0)  # noqa: SLF001 - it differs from the fleet's transformers by its module alone
    builder.seen("blind", "transformer", server)


def _halting(process: subprocess.Popen[bytes], stopped: threading.Event) -> None:
    """Let a process stand still most of the time; it runs when this ends."""
    while not stopped.is_set():
        process.send_signal(signal.SIGSTOP)
        stopped.wait(STOPPED_S)
        process.send_signal(signal.SIGCONT)
        stopped.wait(RUNNING_S)


def _restarting(fleet: Any, server: Any, model: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """End and start a predictor three times."""
    for _ in range(3):
        server.stop(signal.SIGKILL)
        server = fleet.predictor(model, *FOLLOWING, http_port=server.http_port)
        time.sleep(2.0)  # until Prometheus has seen it


@pytest.fixture(scope="module")
def world(
    new_fleet: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    model_dir: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    drawn: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    target: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    start_prometheus: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """Every service, with its fault under way."""
    folder = tmp_path_factory.mktemp("world")
    with ExitStack() as stack:
        fleet = stack.enter_context(new_fleet(folder))
        redis, redis_port = stack.enter_context(_redis(folder))
        builder = Builder(fleet, model_dir, target, drawn.iq, stack)
        reference = model_dir("reference")

        good = builder.predictor("healthy", reference)
        healthy = builder.transformer("healthy", good)
        dying = builder.predictor("crashed", reference)
        crashed = builder.transformer("crashed", dying)
        halting = fleet.predictor(reference)
        slow = builder.transformer("slow", halting)
        hasty = builder.transformer("hasty", halting)
        narrow = builder.predictor("full", model_dir("slow"), "--execution_threads", "1", "--max_queue", "0")
        full = builder.transformer("full", narrow)
        forgetful = builder.transformer("forgetful", good, "--redis_url", f"redis://127.0.0.1:{redis_port}")
        _blind(builder, good, folder)
        confused = builder.predictor("nonsense", builder.copied("reference", folder / "nonsense", outputs=SWAPPED))
        nonsense = builder.transformer("nonsense", confused)
        far = builder.transformer("far", good)
        sure = builder.transformer("overconfident", builder.predictor("overconfident", model_dir("overconfident")))
        probe_set = folder / "probe-set"
        write_probe_set(open_folder(str(probe_set)), PROBE_CAPTURES, seed=5)
        builder.coverage_watch("overconfident", sure.url, probe_set)
        builder.coverage_watch("unwatched", "http://127.0.0.1:9", probe_set)
        builder.seen("mixed", "predictor", good)
        better = builder.copied("better", folder / "better")
        other = builder.predictor("mixed", better, *FOLLOWING)

        prometheus = start_prometheus(*builder.targets)
        _wait(lambda: len(prometheus.query("up == 1")) == len(builder.targets))
        began_s = time.monotonic()
        builder.traffic(healthy)
        for server in (healthy, forgetful):
            builder.traffic(server, fresh=False)
        weak = builder.traffic(far, items=4)
        for server, clients, pause_s in ((crashed, 2, 0.1), (slow, 2, 0.1), (full, 4, 0.4), (nonsense, 1, 0.2)):
            builder.traffic(server, clients, pause_s=pause_s)
        builder.traffic(hasty, 2, allowed_ms=HASTY_MS)

        time.sleep(5.0)
        dying.stop(signal.SIGKILL)
        stack.enter_context(_deaf(dying.http_port))
        redis.kill()
        stopped = threading.Event()
        stack.callback(stopped.set)
        threading.Thread(target=_halting, args=(halting.process, stopped), daemon=True).start()
        _restarting(fleet, other, better)
        time.sleep(max(0.0, began_s + BASELINE_S - time.monotonic()))
        weak.parameters = {"full_scale_dbm": FAR_DBM}
        (better / "model.onnx").write_bytes(b"not a model")
        yield World(prometheus)


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail("Prometheus does not see every process")
        time.sleep(0.2)
