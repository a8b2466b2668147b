"""What transformer and predictor cost together, side by side with one bare process without any hop.

`python bench/transformer_cost.py [--rounds N] [--seconds S] [--connections 1 16 100] [--json OUT]`.

Each round drives every load once, in turn forwards and backwards, so that whatever else the machine does meets all of
them. Reported is the median of the rounds: CPU time of all server processes per request (user + system, from the
kernel), throughput and the percentiles that `wrk` saw; then each CPU time's ratio to that of the bare process in the
same round. Needs `wrk` (https://github.com/wg/wrk) and `redis-server` on the PATH; everything stays on the loopback
interface.

    bare        one process: FP32 samples → features → session, nothing else
    fp32, int16 the service, V2 binary, `cache: false`
    hit         the service, V2 binary FP32, one capture that is known, from the transformer's own memory
    mixed       the same, where one request of five is a capture that was never seen
    hit redis, mixed redis: the same, with answers kept in Redis, whose process counts as part of the service
    json, rest  the service, JSON samples over V2 and REST, without the cache
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import psutil
from broken_redis import redis_server
from driven import Driven, Load, Target, drive, free_port, load, predictor_command, started, table, transformer_command

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor
from reference.simulate import captures

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
PREDICT = "/api/v1/inference/predict"
READY = "/v2/health/ready"


@dataclass(frozen=True)
class Case:
    """One load on one target, and what it is measured against.

    Attributes:
        most: The largest ratio of its CPU time to that of `against` that is good enough.
        against: The name of another case.
    """

    name: str
    target: Target
    load: Load
    against: str = "bare"
    most: float | None = None


@dataclass(frozen=True)
class Limit:
    """A bound on the 95th percentile at 100 connections, in milliseconds."""

    case: str
    p95_ms: float


LIMITS = (Limit("fp32", 500.0), Limit("mixed", 150.0), Limit("mixed redis", 150.0))


def main() -> None:
    """Measure, print, and say what does not reach its bound."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bare = stack.enter_context(started(str(HERE / "servers/bare_iq.py"), str(options.model), "{port}"))
        predictor = stack.enter_context(started(*predictor_command(options.model), ready=READY))
        front = stack.enter_context(started(*transformer_command(predictor.address), ready=READY))
        service = Target((*front.processes, *predictor.processes), front.port)
        port = free_port()
        store = psutil.Process(stack.enter_context(redis_server(Path(folder), port)).pid)
        shared = transformer_command(predictor.address, "--redis_host=127.0.0.1", f"--redis_port={port}")
        front = stack.enter_context(started(*shared, ready=READY))
        with_redis = Target((*front.processes, *predictor.processes, store), front.port)
        cases = _cases(Path(folder), bare, service, with_redis)
        cases = [case for case in cases if not options.cases or case.name in {"bare", *options.cases}]
        for case in cases:
            drive(case.target, case.load, 4, 1)
        results = {
            connections: _rounds(cases, connections, options.rounds, options.seconds)
            for connections in options.connections
        }
    for connections, measured in results.items():
        _print(connections, cases, measured)
    if options.json:
        plain = {str(n): {name: list(map(asdict, rounds)) for name, rounds in m.items()} for n, m in results.items()}
        options.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/reference/models/reference/model.onnx"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--cases", nargs="*", help="all unless named; 'bare' is always measured")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args()


def _cases(folder: Path, bare: Target, service: Target, with_redis: Target) -> list[Case]:
    iq = captures(41, 1).iq
    codes = np.clip(np.round(iq * 32768.0), -32768, 32767).astype(np.int16)
    fp32, int16 = _v2(iq, cache=False), _v2(codes, cache=False)
    json_body = encode_request(InferRequest((Tensor("iq", iq),), parameters={"cache": False}), binary=False).body
    rest_body = orjson.dumps({"iq_data": iq[0], "cache_enabled": False}, option=orjson.OPT_SERIALIZE_NUMPY)
    known = _v2(iq)
    hit, mixed = load(folder, "hit", *known), load(folder, "mixed", *known, known=0.8)
    return [
        Case("bare", bare, load(folder, "bare", *fp32)),
        Case("fp32", service, load(folder, "fp32", *fp32), most=1.4),
        Case("int16", service, load(folder, "int16", *int16), against="fp32", most=1.0),
        Case("hit", service, hit, most=0.5),
        Case("mixed", service, mixed),
        Case("hit redis", with_redis, hit, most=0.5),
        Case("mixed redis", with_redis, mixed),
        Case("json", service, load(folder, "json", json_body), against="fp32", most=8.0),
        Case("rest", service, load(folder, "rest", rest_body, path=PREDICT), against="fp32", most=8.0),
    ]


def _v2(iq: np.ndarray, **parameters: bool) -> tuple[bytes, int | None]:
    encoded = encode_request(InferRequest((Tensor("iq", iq),), parameters=parameters, binary_output=True), binary=True)
    return encoded.body, encoded.json_size


def _rounds(cases: Sequence[Case], connections: int, rounds: int, seconds: int) -> dict[str, list[Driven]]:
    measured: dict[str, list[Driven]] = {case.name: [] for case in cases}
    for index in range(rounds):
        for case in cases if index % 2 == 0 else reversed(cases):
            measured[case.name].append(drive(case.target, case.load, connections, seconds))
        print(f"{connections} connections: round {index + 1} of {rounds}", file=sys.stderr)
    return measured


def _print(connections: int, cases: Sequence[Case], measured: dict[str, list[Driven]]) -> None:
    rows, missed = [], []
    for case in cases:
        rounds = measured[case.name]
        medians = [statistics.median(getattr(one, field.name) for one in rounds) for field in fields(Driven)]
        ratio = statistics.median(
            mine.cpu_us / other.cpu_us for mine, other in zip(rounds, measured[case.against], strict=True)
        ) if case.against in measured else float("nan")  # fmt: skip
        rows.append((case.name, [*medians, ratio, case.against, "" if case.most is None else f"≤ {case.most}"]))
        if case.most is not None and ratio > case.most:
            missed.append(f"{case.name} takes {ratio:.2f} times the CPU of {case.against}, more than {case.most}")
        if medians[-1]:
            missed.append(f"{case.name} failed {medians[-1]:.0f} times")
        missed += _beyond(case.name, connections, medians[3])
    columns = ("CPU µs", "req/s", "P50 ms", "P95 ms", "P99 ms", "failed", "CPU ×", "of", "bound")
    table(f"{connections} connections", rows, columns)
    for sentence in missed:
        print(f"NOT REACHED: {sentence}")


def _beyond(name: str, connections: int, p95_ms: float) -> list[str]:
    return [
        f"{name}: P95 is {p95_ms:.0f} ms, more than {limit.p95_ms:.0f}"
        for limit in LIMITS
        if limit.case == name and connections == 100 and p95_ms > limit.p95_ms
    ]


if __name__ == "__main__":
    main()
