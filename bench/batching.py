"""Where batches win, and what they cost where they do not; and what the graph cache saves at the start.

`python bench/batching.py [--seconds 3] [--rounds 3]`. Three models: a wide one, whose weights (64 MB) are read from
memory once for a whole batch, so that 16 items cost less than 4 single runs; a convolutional one with little to gain;
and the reference model, if it has been built. Each is served with batches of up to 16 and with none, in alternating
rounds, under 16 connections and with one request at a time. `--inline_run_us=0` keeps the small models out of the event
loop, so that batching alone is compared. The ratios are medians of each round's ratio. Needs `wrk`.
"""

from __future__ import annotations

import argparse
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import orjson
import psutil
from onnx import helper, numpy_helper

from predictor.loaded import LoadedModel
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 4096
SIZES = (1, 16)
"""`max_batch_size`: without batches, and with."""

REFERENCE = Path("build/reference/models/reference/model.onnx")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models = _models(Path(name))
        for label, (path, shape) in models.items():
            _show_runs(label, path, shape)
            _compare(path, shape, options, Path(name))
            _show_load(path, Path(name) / "cache")


def _models(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    random = np.random.default_rng(1)
    wide = [random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 64, ("MatMul", (WIDTH,), (WIDTH,), {})]
    kernel = [random.normal(size=(16, 8, 3, 3)).astype(np.float32), ("Conv", (8, 32, 32), (16, 30, 30), {})]
    made = {"wide": _write(folder / "wide.onnx", *wide), "convolution": _write(folder / "conv.onnx", *kernel)}
    return made | ({"reference": (REFERENCE, (7, 32, 128))} if REFERENCE.exists() else {})


def _write(path: Path, weights: Any, node: Any) -> tuple[Path, tuple[int, ...]]:  # noqa: ANN401 - numpy, and a row above
    operator, shape, output, attributes = node
    tensors = [helper.make_tensor_value_info(*one) for one in (("x", 1, ["n", *shape]), ("y", 1, ["n", *output]))]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], **attributes)],
        path.stem,
        tensors[:1],
        tensors[1:],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path, shape


def _show_runs(label: str, path: Path, shape: tuple[int, ...]) -> None:
    """What a run costs by batch size, and whether a batch gives the same bits."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = np.random.default_rng(2).normal(size=(16, *shape)).astype(np.float32)
    single = [session.run(None, {name: x[i : i + 1]}) for i in range(16)]
    together = session.run(None, {name: x})
    worst = max(
        float(np.max(np.abs(np.concatenate(alone) - whole) / np.maximum(np.abs(whole), 1e-6)))
        for alone, whole in zip(zip(*single, strict=True), together, strict=True)
    )
    cost = {size: _shortest_ms(session, {name: x[:size]}) for size in (1, 4, 16)}
    print(f"{label}: runs of 1, 4, 16 take {', '.join(f'{ms:.3f}' for ms in cost.values())} ms;", end=" ")
    print(f"a batch of 16 costs {cost[16] / cost[1]:.1f} single runs; largest relative difference {worst:.1e}")
    loaded = LoadedModel.load(Settings(model_dir=path, max_batch_size=16))
    print(f"  planned: {loaded.plan}")


def _shortest_ms(session: onnxruntime.InferenceSession, feed: dict[str, Any]) -> float:
    times = []
    for _ in range(30):
        started_s = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started_s)
    return min(times) * 1e3


def _compare(path: Path, shape: tuple[int, ...], options: argparse.Namespace, folder: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    script = _wrk_script(session.get_inputs()[0].name, shape, folder)
    with ExitStack() as stack:
        servers = {size: stack.enter_context(_served(path, size)) for size in SIZES}
        for connections in (16, 1):
            rounds: dict[int, list[tuple[float, float, float]]] = {size: [] for size in SIZES}
            for index in range(options.rounds):
                for size in SIZES if index % 2 == 0 else reversed(SIZES):
                    rounds[size].append(_drive(*servers[size], script, connections, options.seconds))
            print(f"  {connections} connections")
            for size, measured in rounds.items():
                rate, cpu_us, p99_ms = (statistics.median(column) for column in zip(*measured, strict=True))
                print(f"  max_batch_size={size:<3}{rate:8.0f} req/s{cpu_us:9.0f} µs CPU{p99_ms:9.1f} ms P99")
            ratios = [np.divide(on, off) for off, on in zip(*rounds.values(), strict=True)]
            rate, cpu, p99 = np.median(ratios, axis=0)
            print(f"  with batches × without: {rate:.2f} req/s, {cpu:.2f} CPU, {p99:.2f} P99")


def _wrk_script(name: str, shape: tuple[int, ...], folder: Path) -> Path:
    x = np.random.default_rng(3).normal(size=(1, *shape)).astype(np.float32)
    parameters = {"binary_data_size": x.nbytes}
    tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "parameters": parameters}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    (folder / "body").write_bytes(text + x.tobytes())
    script = folder / "request.lua"
    script.write_text(
        f'wrk.method = "POST"\nlocal file = io.open("{folder / "body"}", "rb")\nwrk.body = file:read("*a")\n'
        f'file:close()\nwrk.headers["Inference-Header-Content-Length"] = "{len(text)}"\n',
        encoding="utf-8",
    )
    return script


@contextmanager
def _served(path: Path, max_batch_size: int) -> Iterator[tuple[psutil.Process, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "predictor", "--model_name=m", f"--model_dir={path}", f"--http_port={port}"]
    command += ["--enable_grpc=false", "--inline_run_us=0", f"--max_batch_size={max_batch_size}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline_s = time.monotonic() + 60
            while time.monotonic() < deadline_s and not _listens(port):
                time.sleep(0.05)
            yield psutil.Process(process.pid), port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _drive(
    process: psutil.Process, port: int, script: Path, connections: int, seconds: int
) -> tuple[float, float, float]:
    before = process.cpu_times()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", str(script)]
    told = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/v2/models/m/infer"], check=True, capture_output=True, text=True
    ).stdout
    after = process.cpu_times()
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(told)
    completed = int(re.findall(r"(\d+) requests in", told)[0])
    cpu_us = (after.user + after.system - before.user - before.system) / completed * 1e6
    number, unit = re.findall(r"99%\s+([\d.]+)([a-z]+)", told)[-1]
    return completed / seconds, cpu_us, float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def _show_load(path: Path, cache: Path) -> None:
    """Loading and warming up, without the graph cache, with an empty one, and with a filled one."""
    seconds = []
    for folder in (None, cache, cache):
        started_s = time.perf_counter()
        LoadedModel.load(Settings(model_dir=path, graph_cache_dir=folder))
        seconds.append(time.perf_counter() - started_s)
    print(f"  load without, writing, using the graph cache: {', '.join(f'{one * 1e3:.0f}' for one in seconds)} ms\n")


if __name__ == "__main__":
    main()
