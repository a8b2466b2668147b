"""The demonstration: both servers on this machine, simulated captures, a table, a map, and a line to try.

What belongs here: the order of events and what is printed. What does not: anything that another module can do alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import aiohttp
import numpy as np
import orjson

from reference.client import MODEL_NAME, Service
from reference.errors import PortTaken, ServiceFailed
from reference.geometry import offsets_m
from reference.map import write_map
from reference.simulate import Captures, captures
from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reference.estimates import Estimates

HOST = "127.0.0.1"
_CASES, _SEED, _LEVEL = 12, 2_026, 0.95
_READY_TIMEOUT_S, _PROBE_TIMEOUT_S, _STOP_TIMEOUT_S = 60.0, 2.0, 15.0


@dataclass(frozen=True, slots=True)
class Demo:
    """How the demonstration runs."""

    directory: Path
    """For the model, the logs, the map and the example request."""
    http_port: int = 8080
    """Where the transformer listens."""
    predictor_port: int = 8081
    """Where the predictor listens."""
    oneshot: bool = False
    """End after the map instead of serving until interrupted."""

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{HOST}:{self.http_port}"


def run(demo: Demo) -> None:
    """Show the whole service on this machine.

    Raises:
        PortTaken: One of the two ports is in use.
        ServiceFailed: A server did not start or did not answer; its log is named.
    """
    for option, port in (("--http_port", demo.http_port), ("--predictor_port", demo.predictor_port)):
        require_free(port, option)
    print("preparing the reference model (some seconds the first time)", flush=True)
    model = prepare(demo.directory)["reference"]
    with _servers(demo, model) as processes:
        asyncio.run(_show(demo, processes))
        if not demo.oneshot:
            print("serving until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                _watch(processes)


def require_free(port: int, option: str) -> None:
    """Raise `PortTaken`, naming the port and the option that chooses another, if something listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(f"port {port} is in use; choose another with {option}") from error


def table(drawn: Captures, estimates: Estimates) -> str:
    """Truth, estimate, error and ellipse of every capture, for people."""
    error_km = np.hypot(*offsets_m(estimates.position_deg, drawn.position_deg).T) / 1e3
    lines = ["  #  truth              estimate           error   95% ellipse            P(error < 20 km)"]
    rows = zip(
        drawn.position_deg,
        estimates.position_deg,
        error_km,
        estimates.ellipses[_LEVEL],
        estimates.confidence,
        strict=True,
    )
    for number, (truth, position, error, (major, minor, bearing), confidence) in enumerate(rows, start=1):
        places = f"{truth[0]:8.4f} {truth[1]:8.4f}  {position[0]:8.4f} {position[1]:8.4f}"
        size = f"{major / 1e3:5.1f} × {minor / 1e3:4.1f} km @ {bearing:3.0f}°"
        lines.append(f"{number:3d}  {places}  {error:5.1f} km  {size}  {confidence:.2f}")
    return "\n".join(lines)


async def _show(demo: Demo, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    await _ready(demo, processes)
    drawn = captures(_SEED, _CASES)
    async with Service(demo.url) as service:
        estimates = await service.estimate(drawn, (_LEVEL,))
    print(table(drawn, estimates), flush=True)
    write_map(demo.directory, drawn.position_deg, estimates.position_deg, estimates.ellipses[_LEVEL], _LEVEL)
    example = demo.directory / "request.json"
    example.write_bytes(orjson.dumps({"iq_data": drawn.iq[0]}, option=orjson.OPT_SERIALIZE_NUMPY))
    curl = f"curl -s -H 'Content-Type: application/json' --data @{example} {demo.url}/api/v1/inference/predict"
    print(f"\nmap: {demo.directory / 'map.html'}, {demo.directory / 'map.png'}\ntry it:\n  {curl}", flush=True)


@contextlib.contextmanager
def _servers(demo: Demo, model: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Predictor and transformer as child processes with their logs beside the model; ended on leaving."""
    shared = ["--model_name", MODEL_NAME, "--enable_grpc", "false"]
    predictor = ["--model_dir", str(model), "--http_port", str(demo.predictor_port)]
    transformer = ["--predictor_host", f"{HOST}:{demo.predictor_port}", "--http_port", str(demo.http_port)]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with contextlib.ExitStack() as stack:
        for name, arguments in (("predictor", predictor), ("transformer", transformer)):
            log = stack.enter_context((demo.directory / f"{name}.log").open("wb"))
            processes[name] = stack.enter_context(_process([sys.executable, "-m", name, *shared, *arguments], log))
        yield processes


@contextlib.contextmanager
def _process(command: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own: Ctrl-C reaches this program alone, which then ends the child in order."""
    with subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process:  # noqa: S603 - our own
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


async def _ready(demo: Demo, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        for name, port in (("predictor", demo.predictor_port), ("transformer", demo.http_port)):
            while not await _answers(session, f"http://{HOST}:{port}/v2/health/ready"):
                log = demo.directory / f"{name}.log"
                if processes[name].poll() is not None:
                    raise ServiceFailed(f"the {name} ended with status {processes[name].returncode}; see {log}")
                if time.monotonic() > deadline_s:
                    raise ServiceFailed(f"the {name} was not ready within {_READY_TIMEOUT_S:.0f} s; see {log}")
                await asyncio.sleep(0.1)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _watch(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ServiceFailed(f"the {name} ended with status {process.returncode}")
        time.sleep(0.5)
