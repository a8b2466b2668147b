"""The service on this machine as child processes: Redis, the predictor and the transformer, on free loopback ports.

What belongs here: starting, ending, and what the kernel says they use. What does not: sending requests, and faults.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_S, STOP_S, PROBE_S = 90.0, 20.0, 2.0
NAME = "localization"
READY = "/v2/health/ready"


class NotReady(Exception):
    """A process ended or did not answer in time; its log is named."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has and has used at one moment."""

    at_s: float
    cpu_s: float
    memory_bytes: int
    descriptors: int


@dataclass
class Part:
    """One child process that serves a port.

    Attributes:
        name: For people.
        command: Its command line.
        port: On 127.0.0.1.
        folder: Where it runs and where its log lies.
        ready: The path that answers 200 when it can be used; empty: it takes connections.
        environ: Added to this process's environment.
    """

    name: str
    command: list[str]
    port: int
    folder: Path
    ready: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self._process is None:
            raise NotReady(f"{self.name} was not started")
        return self._process

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, without waiting."""
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **self.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command, cwd=self.folder, env=environ, stdout=log, stderr=log)

    def wait(self, seconds: float = START_S) -> None:
        """Wait until it can be used; raises `NotReady`."""
        latest_s = time.monotonic() + seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > latest_s:
                raise NotReady(f"{self.name} is not ready; its log: {self.log}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it can be used now."""
        try:
            if not self.ready:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PROBE_S):
                    return True
            with urllib.request.urlopen(f"http://{self.address}{self.ready}", timeout=PROBE_S):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self.process.kill()
        self.process.wait(STOP_S)

    def end(self) -> None:
        """Let it end in order, and by force if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def usage(self) -> Usage:
        """What it uses now."""
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            times = process.cpu_times()
            return Usage(
                at_s=time.monotonic(),
                cpu_s=times.user + times.system,
                memory_bytes=process.memory_info().rss,
                descriptors=process.num_fds(),
            )


@contextmanager
def running(*parts: Part) -> Iterator[None]:
    """All of them, started at once and ready; ended on leaving, the last first."""
    with ExitStack() as stack:
        for part in parts:
            part.start()
            stack.callback(part.end)
        for part in parts:
            part.wait()
        yield


def redis_part(folder: Path, *options: str) -> Part:
    """A Redis that writes nothing to the disk."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", *options]
    return Part("redis", command, port, folder)


def predictor_part(folder: Path, *options: str, environ: Mapping[str, str] | None = None) -> Part:
    """A predictor; the options say with which model."""
    port = free_port()
    return Part("predictor", _component("predictor", port, *options), port, folder, READY, environ or {})


def transformer_part(folder: Path, predictor_address: str, *options: str) -> Part:
    """A transformer in front of it."""
    port = free_port()
    command = _component("transformer", port, f"--predictor_host={predictor_address}", *options)
    return Part("transformer", command, port, folder, READY)


def _component(module: str, port: int, *options: str) -> list[str]:
    own = (f"--model_name={NAME}", f"--http_port={port}", "--enable_grpc=false", "--drain_s=0")
    return [sys.executable, "-m", module, *own, *options]


def free_port() -> int:
    """A TCP port that nobody listens on, and that nobody else is given."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener that sets it too may have the port
    holder.bind(("127.0.0.1", 0))
    port = int(holder.getsockname()[1])
    holder.detach()  # it never listens, and stays as long as this process, so that nobody else is given the port
    return port
