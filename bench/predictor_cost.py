"""What the predictor costs, side by side with a bare handler and with a plain SDK model.

`python bench/predictor_cost.py [--model FILE] [--rounds N] [--seconds S] [--connections 1 16 100] [--json OUT]`.

Each round drives every server once, one after the other, so that whatever else the machine does meets all of them.
Reported is the median of the rounds: server CPU per request (user + system of the process, from the kernel),
throughput, and the P50 and P99 that `wrk` saw; then each figure's ratio to the bare handler's of the same round. The
bare handler speaks no gRPC: there (`grpc_load.py`) the ratios are to its binary form. CPU is the server's alone.
`--servers ours bare unparsed` adds the predictor without its reader of JSON (`servers/unparsed.py`).
Needs `wrk` (https://github.com/wg/wrk) on the PATH; everything stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import orjson
import psutil
import simdjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent
SHAPE = (1, 7, 32, 128)
URL_PATH = "/v2/models/localization/infer"
START_S = 60.0
JSON_FORMS = ("json", "json17")

_WRK_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "{content_type}"
{header}
"""
_UNIT_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Server:
    """One server process under test."""

    name: str
    form: str
    process: psutil.Process
    port: int
    """Of the form under test: gRPC's for that, else HTTP's."""
    ready_s: float
    rss_mb: float


@dataclass(frozen=True)
class Round:
    """What one server did in one round."""

    cpu_us: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scripts = _write_requests(Path(folder))
        servers = [stack.enter_context(_started(*one, options.model)) for one in _servers(options)]
        for server in servers:
            _drive(server, scripts, 16, 1)
        results = {
            connections: _rounds(servers, scripts, connections, options.rounds, options.seconds)
            for connections in options.connections
        }
        _print_in_process(options.model)
        for connections, rounds in results.items():
            _print_table(connections, rounds)
        _print_starts(servers)
        if options.json:
            options.json.write_text(json.dumps(_as_json(servers, results), indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/reference/models/reference/model.onnx"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--servers", nargs="+", default=["ours", "bare", "plain"])
    parser.add_argument("--forms", nargs="+", default=["binary", "json", "json17", "grpc"])
    parser.add_argument("--options", default="", help="further options of the predictor, separated by spaces")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args()


def _servers(options: argparse.Namespace) -> Iterator[tuple[str, str, list[str]]]:
    model = str(options.model)
    predictor = ["--model_name=localization", f"--model_dir={model}", *options.options.split(), "--http_port={port}"]
    bare = [str(HERE / "servers/bare.py"), model]
    plain = [str(HERE / "servers/plain_sdk.py"), model]
    for form in options.forms:
        grpc = "--grpc_port={grpc_port}" if form == "grpc" else "--enable_grpc=false"
        if "ours" in options.servers:
            yield "ours", form, ["-m", "predictor", *predictor, grpc]
        if "unparsed" in options.servers and form in JSON_FORMS:
            yield "unparsed", form, [str(HERE / "servers/unparsed.py"), *predictor, grpc]
        if "bare" in options.servers and form != "grpc":
            yield "bare", form, [*bare, "{port}", form]
        if "plain" in options.servers:
            yield "plain", form, [*plain, "--http_port={port}", grpc]


@contextmanager
def _started(name: str, form: str, command: Sequence[str], model: Path) -> Iterator[Server]:
    """A server that answers, and how long that took. Its output goes nowhere, as its cost would be the terminal's."""
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as grpc:
        port, grpc_port = int(http.getsockname()[1]), int(grpc.getsockname()[1])
    arguments = [sys.executable, *(part.format(port=port, grpc_port=grpc_port) for part in command)]
    body, json_size = _request("binary" if form == "grpc" else form, np.zeros(SHAPE, np.float32))
    started_s = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_answers(process, port, body, json_size)
            ready_s = time.perf_counter() - started_s
            watched = psutil.Process(process.pid)
            print(f"started {name} ({form}) for {model}: {ready_s:.2f} s", file=sys.stderr)
            driven = grpc_port if form == "grpc" else port
            yield Server(name, form, watched, driven, ready_s, watched.memory_info().rss / 1e6)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, body: bytes, json_size: int | None) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{URL_PATH}", body, _headers(json_size))
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"{process.args!r} does not answer")


def _request(form: str, array: np.ndarray) -> tuple[bytes, int | None]:
    """The request's body: binary, JSON with the digits that FP32 has, or with the 17 that Python writes of a float."""
    head: dict[str, object] = {"name": "log_mel", "datatype": "FP32", "shape": list(array.shape)}
    if form != "binary":
        data = array.ravel() if form == "json" else array.ravel().tolist()
        return orjson.dumps({"inputs": [{**head, "data": data}]}, option=orjson.OPT_SERIALIZE_NUMPY), None
    head["parameters"] = {"binary_data_size": array.nbytes}
    text = orjson.dumps({"inputs": [head], "parameters": {"binary_data_output": True}})
    text += b" " * (-len(text) % 16)
    return text + array.tobytes(), len(text)


def _headers(json_size: int | None) -> dict[str, str]:
    if json_size is None:
        return {"Content-Type": "application/json"}
    return {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(json_size)}


def _write_requests(folder: Path) -> dict[str, Path]:
    array = np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)
    scripts = {}
    for form in ("binary", "json", "json17"):
        body, json_size = _request(form, array)
        (folder / form).write_bytes(body)
        headers = _headers(json_size)
        content_type = headers.pop("Content-Type")
        header = "".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        scripts[form] = folder / f"{form}.lua"
        text = _WRK_SCRIPT.format(body=folder / form, content_type=content_type, header=header)
        scripts[form].write_text(text, encoding="utf-8")
    return scripts


def _rounds(
    servers: Sequence[Server], scripts: dict[str, Path], connections: int, rounds: int, seconds: int
) -> dict[tuple[str, str], list[Round]]:
    measured: dict[tuple[str, str], list[Round]] = {(one.form, one.name): [] for one in servers}
    for index in range(rounds):
        for server in servers if index % 2 == 0 else reversed(servers):
            measured[server.form, server.name].append(_drive(server, scripts, connections, seconds))
    return measured


def _drive(server: Server, scripts: dict[str, Path], connections: int, seconds: int) -> Round:
    before = server.process.cpu_times()
    if server.form == "grpc":
        completed, seen = _driven_grpc(server.port, connections, seconds)
    else:
        completed, seen = _driven_http(server.port, scripts[server.form], connections, seconds)
    after = server.process.cpu_times()
    return Round((after.user + after.system - before.user - before.system) / max(1, completed) * 1e6, *seen)


def _driven_http(
    port: int, script: Path, connections: int, seconds: int
) -> tuple[int, tuple[float, float, float, int]]:
    """Requests that were answered; and what a `Round` holds behind the CPU time."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", str(script)]
    told = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{URL_PATH}"], check=True, capture_output=True, text=True
    ).stdout
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", told))
    failed = sum(map(int, re.findall(r"(?:3xx responses: |connect |read |write |timeout )(\d+)", told)))
    completed = int(_found(r"(\d+) requests in", told))
    return completed, (rate, _milliseconds(told, "50"), _milliseconds(told, "99"), failed)


def _driven_grpc(port: int, connections: int, seconds: int) -> tuple[int, tuple[float, float, float, int]]:
    """The same over gRPC."""
    command = [sys.executable, str(HERE / "grpc_load.py"), str(port), str(connections), str(seconds)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told["requests"], (told["requests_per_s"], told["p50_ms"], told["p99_ms"], told["failed"])


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wrk said:\n{text}")
    return match.group(1)


def _milliseconds(told: str, percentile: str) -> float:
    number, unit = re.findall(rf"{percentile}%\s+([\d.]+)([a-z]+)", told)[-1]
    return float(number) * _UNIT_MS[unit]


def _print_in_process(model: Path) -> None:
    """What cannot be saved: the run; and of JSON, the parser's work until the numbers lie in an FP32 buffer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    array = np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)
    print(f"in process: session.run {_cpu_us(partial(session.run, None, {'log_mel': array})):.0f} µs of CPU")
    parser = simdjson.Parser()
    for form in JSON_FORMS:
        cpu_us = _cpu_us(partial(_parsed, parser, _request(form, array)[0]))
        print(f"in process: simdjson ({parser.implementation[0]}) {cpu_us:.0f} µs of CPU for {form}")
    print()


def _parsed(parser: simdjson.Parser, body: bytes) -> np.ndarray:
    document: Any = parser.parse(body)
    return np.frombuffer(document["inputs"][0]["data"].as_buffer(of_type="d")).astype(np.float32)


def _cpu_us(work: Callable[[], object], runs: int = 1000) -> float:
    started_s = time.process_time()
    for _ in range(runs):
        work()
    return (time.process_time() - started_s) / runs * 1e6


def _print_table(connections: int, measured: dict[tuple[str, str], list[Round]]) -> None:
    print(f"{connections} connections")
    print(
        f"{'':16}{'CPU µs':>9}{'req/s':>9}{'P50 ms':>9}{'P99 ms':>9}{'failed':>8}   {'CPU ×':>7}{'P99 ×':>7}  of bare"
    )
    for (form, name), rounds in measured.items():
        figures = [statistics.median(getattr(one, field) for one in rounds) for field in Round.__annotations__]
        bare = measured.get(("binary" if form == "grpc" else form, "bare"), rounds)
        ratios = [
            statistics.median(getattr(a, field) / getattr(b, field) for a, b in zip(rounds, bare, strict=True))
            for field in ("cpu_us", "p99_ms")
        ]
        print(
            f"{form + ' ' + name:16}{figures[0]:9.0f}{figures[1]:9.0f}{figures[2]:9.2f}{figures[3]:9.2f}"
            f"{figures[4]:8.0f}   {ratios[0]:7.2f}{ratios[1]:7.2f}"
        )
    print()


def _print_starts(servers: Sequence[Server]) -> None:
    print(f"{'':16}{'ready s':>9}{'RSS MB':>9}{'after MB':>9}")
    for one in servers:
        now_mb = one.process.memory_info().rss / 1e6
        print(f"{one.form + ' ' + one.name:16}{one.ready_s:9.2f}{one.rss_mb:9.0f}{now_mb:9.0f}")


def _as_json(servers: Sequence[Server], results: dict[int, dict[tuple[str, str], list[Round]]]) -> dict[str, object]:
    return {
        "start": {f"{one.form} {one.name}": {"ready_s": one.ready_s, "rss_mb": one.rss_mb} for one in servers},
        "load": {
            str(connections): {" ".join(key): [asdict(one) for one in rounds] for key, rounds in measured.items()}
            for connections, measured in results.items()
        },
    }


if __name__ == "__main__":
    main()
