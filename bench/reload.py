"""Reloads under load: does any request fail, is any answer mixed, does memory grow?

`python bench/reload.py [--reloads 1000] [--connections 50]`; exits with 1 if one of the three is so.

The model of version n multiplies its input by n, so that an answer tells which version computed it; it has to be the
version that the answer names. Clients ask without a pause, in single items and small batches, while version after
version is written, loaded by `/v2/repository/models/m/load`, and the one before removed. Memory is the process's
resident set, compared between the first fifth of the reloads (allocators fill up) and the end.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDE = 256
START_S = 60.0
MAX_GROWTH_MB = 15.0


@dataclass
class Tally:
    """What the clients saw."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


def main() -> None:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--options", default="--inline_run_us=0", help="of the predictor, separated by spaces")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, 1)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "predictor", "--model_name=m", f"--model_dir={folder}", f"--http_port={port}"]
        command += ["--enable_grpc=false", "--repository_api=true", "--max_queue=1000", *options.options.split()]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                ended_well = asyncio.run(_measure(folder, f"http://127.0.0.1:{port}", process.pid, options))
            finally:
                process.terminate()
    sys.exit(0 if ended_well else 1)


def _write(folder: Path, version: int) -> None:
    """A model folder that appears at once."""
    weights = numpy_helper.from_array(np.eye(SIDE, dtype=np.float32) * version, "w")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "m", tensors[:1], tensors[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    made = folder / f".{version}"
    made.mkdir()
    (made / "model.onnx").write_bytes(model.SerializeToString())
    made.rename(folder / str(version))


async def _measure(folder: Path, url: str, pid: int, options: argparse.Namespace) -> bool:
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=options.connections + 1)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:
        await _until_ready(session)
        stop = asyncio.Event()
        clients = [asyncio.create_task(_client(session, tally, stop, 1 + i % 3)) for i in range(options.connections)]
        started_s = time.perf_counter()
        memory_mb = await _reload_all(session, folder, pid, options.reloads)
        seconds = time.perf_counter() - started_s
        stop.set()
        await asyncio.gather(*clients)
    return _judge(tally, memory_mb, options.reloads, seconds)


async def _until_ready(session: aiohttp.ClientSession) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            async with session.get("/v2/health/ready") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)
    raise SystemExit("the predictor did not start")


async def _client(session: aiohttp.ClientSession, tally: Tally, stop: asyncio.Event, rows: int) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, SIDE], "data": [1.0] * (rows * SIDE)}
    while not stop.is_set():
        try:
            async with session.post("/v2/models/m/infer", json={"inputs": [tensor]}) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.failures.append(repr(error))
            continue
        if answer.status != 200:
            tally.failures.append(f"{answer.status} {body}")
            continue
        tally.answers += 1
        tally.versions.add(body["model_version"])
        if set(body["outputs"][0]["data"]) != {float(body["model_version"])}:
            tally.mixed.append(str(body)[:200])


async def _reload_all(session: aiohttp.ClientSession, folder: Path, pid: int, reloads: int) -> list[float]:
    process, memory_mb = psutil.Process(pid), []
    for version in range(2, reloads + 2):
        _write(folder, version)
        async with session.post("/v2/repository/models/m/load") as answer:
            if answer.status != 200:
                raise SystemExit(f"reload {version}: {answer.status} {await answer.text()}")
        shutil.rmtree(folder / str(version - 1))
        memory_mb.append(process.memory_info().rss / 1e6)
    return memory_mb


def _judge(tally: Tally, memory_mb: Sequence[float], reloads: int, seconds: float) -> bool:
    warm_mb, end_mb = max(memory_mb[: max(1, reloads // 5)]), memory_mb[-1]
    print(f"{reloads} reloads in {seconds:.1f} s, {tally.answers} answers from {len(tally.versions)} versions")
    print(f"failed {len(tally.failures)}, mixed {len(tally.mixed)}, memory {warm_mb:.0f} MB -> {end_mb:.0f} MB")
    for problem in (tally.failures + tally.mixed)[:5]:
        print(problem)
    return not tally.failures and not tally.mixed and end_mb - warm_mb < MAX_GROWTH_MB and tally.answers > reloads


if __name__ == "__main__":
    main()
