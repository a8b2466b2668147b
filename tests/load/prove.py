"""The long proofs: `python tests/load/prove.py load|soak [--url URL --host HOST --namespace NAMESPACE]`.

`load` drives the service in a closed and in an open loop, then with 1 to 200 clients, at several rates, and with
batches; `soak` drives it steadily and looks whether memory and file descriptors grow. Both write `report.html`,
`report.json` and every single request to the output folder. Without a URL the service is started on this machine.

What belongs here: the order of runs and their sizes. What does not: anything that another module can do alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import report
import target as targets
from measured import REST_S, Proof, growth_of
from published import publish
from traffic import Form, Traffic
from watch import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from measured import Growth, Measured
    from processes import Part, Usage
    from target import Target


def load(proof: Proof, options: argparse.Namespace) -> None:
    """The closed loop, the open loop at half its throughput, and how both grow."""
    short_s = options.point_seconds
    proof.closed("warm-up", 4, short_s)
    most = proof.closed(f"closed {options.clients} clients", options.clients, options.seconds, html="locust.html")
    for percent in options.percents:
        seconds = options.seconds if percent == options.percents[0] else short_s
        proof.open(f"open {percent} %", most.figures.rate_hz * percent / 100, seconds)
    for clients in options.steps:
        proof.closed(f"clients {clients}", clients, short_s)
    for batch in options.batches:
        computed = Traffic(shares={Form.FP32: 1.0}, fresh=1.0, batch=batch, cache=False)
        proof.closed(f"batch {batch}", 4, short_s, computed)


def soak(proof: Proof, options: argparse.Namespace) -> tuple[list[Growth], dict[str, list[Usage]]]:
    """A steady open loop; how memory and descriptors of our own processes grow under it, and the samples.

    Before that everything that has a bound is filled: connections, heaps, and the transformer's memory of keys.
    Before and after there is a rest, in which every connection that is not needed is closed.
    """
    proof.closed("warm-up", options.clients, options.warm_up_seconds, Traffic(shares={Form.INT16: 1.0}, fresh=1.0))
    parts = [part for part in proof.target.parts if part.name != "redis"]  # whose size is the cache's
    before = _at_rest(parts, options.rest_seconds)
    with Samples(parts, options.seconds / 360) as samples:
        proof.open("soak", options.rate, options.seconds)
    after = _at_rest(parts, options.rest_seconds)
    for part in parts:
        part.wait(1.0)
    taken = samples.taken
    return [growth_of(name, before[name], taken[name], after[name]) for name in taken], taken


def _at_rest(parts: Sequence[Part], seconds: float) -> dict[str, Usage]:
    time.sleep(seconds)
    return {part.name: part.usage() for part in parts}


def main() -> None:
    """Run the proof; the exit code is 1 if a request failed, an answer was wrong, or something grew."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "proof": options.proof,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "python": platform.python_version(),
        "command": " ".join(["tests/load/prove.py", *sys.argv[1:]]),
    }
    growth: list[Growth] = []
    usage: dict[str, list[Usage]] = {}
    with _target(options) as target:
        proof = Proof(target, options.out)
        if options.proof == "load":
            load(proof, options)
        else:
            growth, usage = soak(proof, options)
    about["target"] = target.name
    report.write(options.out, about, proof.measured, growth, usage)
    text = report.as_text(about, proof.measured, growth)
    sys.stdout.write(text)
    if options.docs:
        publish(options.docs, f"{options.proof}, {target.name}", text)
    bad = [one.name for one in proof.measured if one.wrong or _failed(one, options.clients)]
    bad += [one.part for one in growth if not one.flat]
    if bad:
        sys.exit(f"NOT REACHED: {', '.join(bad)}")


def _failed(one: Measured, clients: int) -> int:
    """Requests that should not have failed; more clients than the long runs have may be told to come again."""
    more = one.name.startswith("clients") and one.offered > clients
    return one.figures.failed - (one.figures.refused if more else 0)


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Target]:
    if options.url:
        yield targets.elsewhere(options.url.rstrip("/"), options.host, options.namespace)
    else:
        with targets.on_this_machine(options.out, options.models) as target:
            yield target


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=["load", "soak"])
    parser.add_argument("--out", type=_absolute, required=True, help="folder for the report; made if it is missing")
    parser.add_argument("--docs", type=_absolute, help="page of the documentation to put the table into")
    parser.add_argument("--url", default="", help="of a service that runs already")
    parser.add_argument("--host", default="", help="header Host, where an ingress routes by it")
    parser.add_argument("--namespace", default="", help="whose pods' CPU time is read with kubectl")
    parser.add_argument(
        "--models", type=_absolute, default=Path("build/reference").resolve(), help="where the model is kept"
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="of the long runs")
    parser.add_argument("--point-seconds", type=float, default=15.0, help="of each of the short ones")
    parser.add_argument("--clients", type=int, default=100, help="of the long closed loop")
    parser.add_argument("--percents", type=int, nargs="+", default=[50, 25, 75], help="of its throughput, open loop")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 5, 10, 20, 50, 100, 200], help="of clients")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="captures in a request")
    parser.add_argument("--warm-up-seconds", type=float, default=120.0, help="of the soak, 33,000 captures at least")
    parser.add_argument("--rest-seconds", type=float, default=REST_S, help="before and after the soak")
    parser.add_argument("--rate", type=float, default=30.0, help="of the soak, requests a second")
    return parser.parse_args()


def _absolute(text: str) -> Path:
    return Path(text).resolve()  # the service's processes run elsewhere


if __name__ == "__main__":
    main()
