"""What tracing costs, side by side: the service without it, with every request traced, and with one in a hundred.

`python bench/tracing_cost.py [--rounds N] [--seconds S] [--connections 1 16]`.

Each way has a transformer and a predictor of its own; each round drives all of them, in turn forwards and backwards.
The request is V2 binary FP32 past the cache, or a hit. Reported is the median of the rounds: CPU time of both processes
per request, throughput, percentiles, and the CPU time's ratio to that without tracing in the same round. The collector
takes the spans in this process, whose time is not counted. Needs `wrk` on the PATH.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from driven import Driven, Load, Target, drive, load, predictor_command, started, table, transformer_command

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor
from reference.simulate import captures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY = "/v2/health/ready"
WAYS = {"off": {}, "all": {"OTEL_TRACES_SAMPLER": "always_on"}, "1 %": {"OTEL_TRACES_SAMPLER": "traceidratio"}}
SHARE = {"OTEL_TRACES_SAMPLER_ARG": "0.01"}


@dataclass(frozen=True)
class Case:
    """One load on one way of tracing."""

    way: str
    target: Target
    load: Load

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.load.script.stem}, {self.way}"


class _Collector(BaseHTTPRequestHandler):
    """Takes whatever comes, and says thanks."""

    def do_POST(self) -> None:  # the name that http.server asks for
        """An export."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Measure and print."""
    options = _options()
    iq = captures(41, 1).iq
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        loads = [_load(Path(folder), "miss", iq, cache=False), _load(Path(folder), "hit", iq, cache=True)]
        url = stack.enter_context(_collector())
        targets = {way: stack.enter_context(_service(options.model, way, url)) for way in WAYS}
        for connections in options.connections:
            for one in loads:
                cases = [Case(way, target, one) for way, target in targets.items()]
                _measure(cases, connections, options.rounds, options.seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/reference/models/reference/model.onnx"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    return parser.parse_args()


def _load(folder: Path, name: str, iq: object, *, cache: bool) -> Load:
    request = InferRequest((Tensor("iq", iq),), parameters={"cache": cache}, binary_output=True)
    encoded = encode_request(request, binary=True)
    return load(folder, name, encoded.body, encoded.json_size)


@contextmanager
def _collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _service(model: Path, way: str, url: str) -> Iterator[Target]:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **SHARE, **WAYS[way]} if WAYS[way] else {}
    os.environ.update(environ)
    try:
        with (
            started(*predictor_command(model), ready=READY) as predictor,
            started(*transformer_command(predictor.address), ready=READY) as front,
        ):
            for name in environ:
                del os.environ[name]
            yield Target((*front.processes, *predictor.processes), front.port)
    finally:
        for name in environ:
            os.environ.pop(name, None)


def _measure(cases: Sequence[Case], connections: int, rounds: int, seconds: int) -> None:
    measured: dict[str, list[Driven]] = {case.way: [] for case in cases}
    for case in cases:
        drive(case.target, case.load, 4, 1)
    for index in range(rounds):
        for case in cases if index % 2 == 0 else reversed(cases):
            measured[case.way].append(drive(case.target, case.load, connections, seconds))
        print(f"{connections} connections: round {index + 1} of {rounds}", file=sys.stderr)
    rows = []
    for case in cases:
        mine, off = measured[case.way], measured["off"]
        medians = [statistics.median(getattr(one, field.name) for one in mine) for field in fields(Driven)]
        ratio = statistics.median(one.cpu_us / other.cpu_us for one, other in zip(mine, off, strict=True))
        rows.append((case.name, [*medians, ratio]))
    columns = ("CPU µs", "req/s", "P50 ms", "P95 ms", "P99 ms", "failed", "CPU ×")
    table(f"{connections} connections", rows, columns)


if __name__ == "__main__":
    main()
