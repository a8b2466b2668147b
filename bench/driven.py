"""Servers under test and the load on them: what the benchmarks of this folder share.

What belongs here: starting processes on free loopback ports, driving them with `wrk`, and the CPU time that the kernel
says they took. What does not: what is compared with what.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

START_S = 60.0
INFER = "/v2/models/localization/infer"

_SCRIPT = """
wrk.method = "POST"
local function read(path)
  local file = io.open(path, "rb")
  local text = file:read("*a")
  file:close()
  return text
end
local body = read("{body}")
wrk.body = body
wrk.headers["Content-Type"] = "{content_type}"
{header}
{request}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {{"requests":%d,"duration_s":%f,"failed":%d,"p50_ms":%f,"p95_ms":%f,"p99_ms":%f}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""

# The last sample of such a request differs from all others. The clock begins the count, so that runs do not meet.
_FRESH = """
local count = os.time() * 1000 % 4194304
local head = body:sub(1, -5)
function request()
  if math.random() < {known} then return wrk.format(nil, nil, nil, body) end
  count = count + 1
  local tail = string.char(count % 256, math.floor(count / 256) % 256, math.floor(count / 65536) % 64, 58)
  return wrk.format(nil, nil, nil, head .. tail)
end
"""


@dataclass(frozen=True)
class Target:
    """Something that answers, made of one or more processes.

    Attributes:
        processes: Whose CPU time counts.
        port: Where it is called.
    """

    processes: tuple[psutil.Process, ...]
    port: int

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of its processes until now."""
        times = [process.cpu_times() for process in self.processes]
        return sum(one.user + one.system for one in times)


@dataclass(frozen=True)
class Load:
    """What is sent again and again.

    Attributes:
        path: Of the URL.
        script: For `wrk`.
    """

    path: str
    script: Path


@dataclass(frozen=True)
class Driven:
    """What came of one load on one target; times in milliseconds, CPU time in microseconds a request."""

    cpu_us: float
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int


@contextmanager
def started(*command: str, ready: str = "") -> Iterator[Target]:
    """A Python server that answers `GET ready`, or takes connections; `{port}` in the command becomes its port.

    Its output goes nowhere, as its cost would be the terminal's.
    """
    port = free_port()
    arguments = [sys.executable, *(part.replace("{port}", str(port)) for part in command)]
    environ = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(process, port, ready)
            yield Target((psutil.Process(process.pid),), port)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def predictor_command(model: Path) -> list[str]:
    """The predictor with its defaults."""
    return ["-m", "predictor", "--model_name=localization", f"--model_dir={model}", *_ports()]


def transformer_command(predictor_address: str, *options: str) -> list[str]:
    """The transformer in front of it with its defaults."""
    return [
        "-m", "transformer", "--model_name=localization", f"--predictor_host={predictor_address}", *_ports(), *options,
    ]  # fmt: skip


def _ports() -> tuple[str, ...]:
    return "--enable_grpc=false", "--http_port={port}", "--drain_s=0"


def load(
    folder: Path,
    name: str,
    body: bytes,
    json_size: int | None = None,
    *,
    path: str = INFER,
    known: float | None = None,
) -> Load:
    """A load whose request is this body.

    Args:
        folder: Where its files go.
        name: Of the files.
        body: The request's body.
        json_size: Size of the JSON before binary data, if there is any.
        path: Of the URL.
        known: Share of requests that are sent as they are; the others end in a sample of their own (binary FP32 only).
            None: all are sent as they are.
    """
    (folder / name).write_bytes(body)
    header = "" if json_size is None else f'wrk.headers["Inference-Header-Content-Length"] = "{json_size}"'
    kind = "application/json" if json_size is None else "application/octet-stream"
    request = "" if known is None else _FRESH.format(known=known)
    script = folder / f"{name}.lua"
    script.write_text(_SCRIPT.format(body=folder / name, content_type=kind, header=header, request=request))
    return Load(path, script)


def drive(target: Target, what: Load, connections: int, seconds: float) -> Driven:
    """One load in a closed loop of so many connections."""
    before_s = target.cpu_s()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(what.script)]
    told = subprocess.run(
        [*command, f"http://{target.address}{what.path}"], check=True, capture_output=True, text=True
    ).stdout
    spent_s = target.cpu_s() - before_s
    result = json.loads(told.partition("RESULT ")[2])
    return Driven(
        cpu_us=spent_s / max(1, result["requests"]) * 1e6,
        requests_per_s=result["requests"] / result["duration_s"],
        p50_ms=result["p50_ms"],
        p95_ms=result["p95_ms"],
        p99_ms=result["p99_ms"],
        failed=result["failed"],
    )


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, ready: str) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                return
        except urllib.error.HTTPError:
            if not ready:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not answer")


def table(title: str, rows: Sequence[tuple[str, Sequence[float | str]]], columns: Sequence[str]) -> None:
    """Print figures under their names."""
    print(f"{title:24}" + "".join(f"{column:>10}" for column in columns))
    for name, figures in rows:
        shown = (one if isinstance(one, str) else f"{one:.2f}" if one < 100 else f"{one:.0f}" for one in figures)
        print(f"{name:24}" + "".join(f"{one:>10}" for one in shown))
    print()
