"""What the shared cache reaches on repeated traffic, and what a broken one costs.

`python bench/transformer_cache.py [--requests N] [--captures N] [--ttl S] [--json OUT]`.

Repeated traffic: captures drawn by Zipf's law with exponent 1, sent to two transformers in turn that share one Redis,
whose maxmemory holds 30 % of the captures on average and whose entries expire during the run. They come at a steady
rate, because Redis's clock for the least recently used ticks once a second: whoever asks for most of the captures
within one tick measures that. An ideal LRU of as many entries
as Redis held on average, with the same time to live, sees the same requests at the same times; reported is the hit
rate against its.

Faults: captures that were never seen, with Redis as it should be, stopped, hung, full, and with somebody else on its
port. Reported are the percentiles once the fault is known, against those without a fault. Every fault is measured next
to a round without one.

Needs `redis-server` and `wrk` on the PATH; everything stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import redis
from broken_redis import FAULTS, redis_server
from driven import INFER, Driven, Target, drive, free_port, load, predictor_command, started, table, transformer_command

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, Tensor
from reference.simulate import captures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

READY = "/v2/health/ready"
JSON_SIZE = "inference-header-content-length"
SHARE = 0.3
TUNING_ROUNDS, TUNING_REQUESTS, TUNED_WITHIN = 8, 3_000, 0.02
CLIENTS = 4
SETTLE_S = 1


@dataclass(frozen=True)
class Request:
    """One request of the repeated traffic: what, when, and whether it was answered from the cache."""

    capture: int
    at_s: float
    cached: bool


@dataclass(frozen=True)
class Repeated:
    """What repeated traffic reached; `entries` is what Redis held on average, and so the size of the ideal LRU."""

    requests: int
    failed: int
    hit_rate: float
    ideal_hit_rate: float
    ratio: float
    entries: int
    seconds: float


class IdealLru:
    """Least recently used out first, nothing older than its time to live."""

    def __init__(self, entries: int, ttl_s: float) -> None:
        self._entries, self._ttl_s = entries, ttl_s
        self._expires_s: OrderedDict[int, float] = OrderedDict()

    def hit(self, capture: int, at_s: float) -> bool:
        """Whether it holds the capture; if not, it does from now on."""
        expires_s = self._expires_s.get(capture)
        if expires_s is not None and expires_s > at_s:
            self._expires_s.move_to_end(capture)
            return True
        self._expires_s[capture] = at_s + self._ttl_s
        self._expires_s.move_to_end(capture)
        if len(self._expires_s) > self._entries:
            self._expires_s.popitem(last=False)
        return False


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        predictor = stack.enter_context(started(*predictor_command(options.model), ready=READY))
        port = free_port()
        cache = ("--redis_host=127.0.0.1", f"--redis_port={port}", f"--cache_ttl_s={options.ttl}")
        command = transformer_command(predictor.address, *cache)
        fronts = [stack.enter_context(started(*command, ready=READY)) for _ in range(2)]
        results: dict[str, object] = {}
        if options.requests:
            with redis_server(Path(folder), port):
                repeated = _repeated(fronts, port, options)
            results["repeated"] = asdict(repeated)
            _print_repeated(repeated)
        if options.rounds:
            faults = _faults(fronts[0], Path(folder), port, options)
            results["faults"] = {name: list(map(asdict, pair)) for name, pair in faults.items()}
            _print_faults(faults)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/reference/models/reference/model.onnx"))
    parser.add_argument("--requests", type=int, default=20_000, help="of repeated traffic; 0: none")
    parser.add_argument("--captures", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=300.0, help="requests/s of repeated traffic, at most")
    parser.add_argument("--ttl", type=int, default=30, help="seconds that an entry lives; shorter than the run")
    parser.add_argument("--rounds", type=int, default=3, help="of each fault; 0: none")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args()


# --- repeated traffic -----------------------------------------------------------------------------------------------


def _repeated(fronts: Sequence[Target], port: int, options: argparse.Namespace) -> Repeated:
    bodies = _bodies(fronts[0])
    drawn = _drawn(options.captures, options.requests, seed=3)
    _limit_memory(port, fronts, bodies, round(SHARE * options.captures), options)
    began_s = time.monotonic()
    with _watched(port, lambda client: client.dbsize()) as entries:
        told, failed = _send(fronts, bodies, drawn, options.rate)
    took_s = time.monotonic() - began_s
    held = round(statistics.mean(entries[len(entries) // 4 :]))  # of a full Redis: it is empty at first
    ideal = IdealLru(held, options.ttl)
    ideal_hits = sum(ideal.hit(one.capture, one.at_s) for one in sorted(told, key=lambda one: one.at_s))
    hits = sum(one.cached for one in told)
    rate, ideal_rate = hits / len(told), ideal_hits / len(told)
    return Repeated(len(told), failed, rate, ideal_rate, rate / ideal_rate, held, took_s)


def _bodies(front: Target) -> list[tuple[bytes, str]]:
    """Requests of some captures whose answers nothing is doubtful about; a number at the end makes more of each."""
    iq = captures(43, 32).iq
    body, size = _encoded(iq, cache=False)
    doubts = _ask(HTTPConnection("127.0.0.1", front.port), body, size).parameters.get("degraded", "null")
    reasons = orjson.loads(str(doubts)) or [()] * len(iq)
    chosen = [one for one, why in zip(iq, reasons, strict=True) if not why][:8]
    codes = [np.clip(np.round(one[None] * 32768.0), -32768, 32767).astype(np.int16) for one in chosen]
    return [_encoded(one) for one in codes]


def _encoded(iq: np.ndarray, **parameters: bool) -> tuple[bytes, str]:
    encoded = encode_request(InferRequest((Tensor("iq", iq),), parameters=parameters, binary_output=True), binary=True)
    return encoded.body, str(encoded.json_size)


def _ask(connection: HTTPConnection, body: bytes, size: str):  # noqa: ANN202 - the decoded response
    connection.request("POST", INFER, body, {JSON_SIZE: size})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise OSError(response.status, answer)
    return decode_response(answer, int(response.headers[JSON_SIZE]))


def _limit_memory(
    port: int, fronts: Sequence[Target], bodies: Sequence[tuple[bytes, str]], goal: int, options: argparse.Namespace
) -> None:
    """Find the limit with which Redis holds so many captures on average of this very traffic.

    It cannot be computed: entries of less than a kilobyte are the smaller part of it, buffers of its clients come and
    go, and at each of their peaks entries are dropped.
    """
    with redis.Redis(port=port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        _send(fronts, bodies, list(range(goal)), options.rate)
        entry_bytes = client.memory_usage(client.randomkey())
        limit_bytes = client.info("memory")["used_memory"]
        for seed in range(10, 10 + TUNING_ROUNDS):
            client.config_set("maxmemory", round(limit_bytes))
            client.flushall()
            drawn = _drawn(options.captures, TUNING_REQUESTS, seed)
            with _watched(port, lambda client: client.dbsize()) as entries:
                _send(fronts, bodies, drawn, options.rate)
            held = statistics.mean(entries[len(entries) // 2 :])
            if abs(held - goal) < TUNED_WITHIN * goal:
                break
            limit_bytes += (goal - held) * entry_bytes
        client.flushall()


def _drawn(captures: int, requests: int, seed: int) -> list[int]:
    """Zipf's law with exponent 1."""
    weights = 1.0 / np.arange(1, captures + 1)
    return np.random.default_rng(seed).choice(captures, requests, p=weights / weights.sum()).tolist()


@contextmanager
def _watched(port: int, look: Callable[[redis.Redis], int]) -> Iterator[list[int]]:
    """What Redis is seen to say ten times a second."""
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        with redis.Redis(port=port) as client:
            while not ended.wait(0.1):
                seen.append(look(client))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def _send(
    fronts: Sequence[Target], bodies: Sequence[tuple[bytes, str]], drawn: list[int], rate_hz: float
) -> tuple[list[Request], int]:
    """Send the captures in order, from a few clients that take turns; each client asks both transformers in turn."""
    told: list[Request] = []
    failures: list[OSError] = []
    numbers = iter(enumerate(drawn))
    began_s = time.monotonic()

    def client() -> None:
        connections = [HTTPConnection("127.0.0.1", front.port, timeout=30) for front in fronts]
        for number, capture in numbers:  # `next` of an enumeration is atomic
            body, size = bodies[capture % len(bodies)]
            own = body[:-2] + (capture // len(bodies)).to_bytes(2, "little")
            time.sleep(max(0.0, began_s + number / rate_hz - time.monotonic()))
            at_s = time.monotonic()
            try:
                response = _ask(connections[number % len(connections)], own, size)
                told.append(Request(capture, at_s, response.parameters["cached"] == "[true]"))
            except OSError as error:
                failures.append(error)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for one in [pool.submit(client) for _ in range(CLIENTS)]:
            one.result()
    return told, len(failures)


def _print_repeated(one: Repeated) -> None:
    figures = (one.requests, one.failed, one.hit_rate * 100, one.ideal_hit_rate * 100, one.ratio * 100, one.entries)
    columns = ("requests", "failed", "hits %", "LRU %", "of it %", "entries", "seconds")
    table("repeated traffic", [("two transformers", (*figures, one.seconds))], columns)
    if one.ratio <= 0.95 or one.failed:
        print("NOT REACHED: more than 95 % of an ideal LRU's hit rate, without failures")


# --- faults ---------------------------------------------------------------------------------------------------------


def _faults(front: Target, folder: Path, port: int, options: argparse.Namespace) -> dict[str, tuple[Driven, Driven]]:
    body, size = _encoded(captures(44, 1).iq)
    fresh = load(folder, "fresh", body, int(size), known=0.0)
    results = {}
    for name, broken in FAULTS.items():
        pairs = [_fault(front, fresh, folder, port, broken, options.seconds) for _ in range(options.rounds)]
        results[name] = min(pairs, key=lambda pair: pair[0].p99_ms)  # the round that the machine disturbed least
    return results


def _fault(front: Target, fresh, folder: Path, port: int, broken: Callable, seconds: int) -> tuple[Driven, Driven]:  # noqa: ANN001 - a load
    with redis_server(folder, port) as process:
        time.sleep(3)  # the breaker finds out that Redis is back
        drive(front, fresh, 4, SETTLE_S)
        usual = drive(front, fresh, 4, seconds)
        with broken(process, port):
            drive(front, fresh, 4, SETTLE_S)
            return usual, drive(front, fresh, 4, seconds)


def _print_faults(faults: dict[str, tuple[Driven, Driven]]) -> None:
    rows = [
        (name, (usual.p50_ms, broken.p50_ms, usual.p99_ms, broken.p99_ms, broken.p99_ms - usual.p99_ms, broken.failed))
        for name, (usual, broken) in faults.items()
    ]
    table("Redis", rows, ("P50 well", "P50 bad", "P99 well", "P99 bad", "added", "failed"))
    for name, figures in rows:
        if figures[4] >= 15.0 or figures[5]:
            print(f"NOT REACHED: Redis {name} adds {figures[4]:.1f} ms to the P99, {figures[5]:.0f} failed")


if __name__ == "__main__":
    main()
