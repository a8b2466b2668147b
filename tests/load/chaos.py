"""One fault after the other, each under an open load, on this machine: what was lost, and is it what was promised?

`python tests/load/chaos.py --out FOLDER [FAULT ...]`. Each fault gets processes of its own. Writes `chaos.json` and a
Markdown table, and ends with 1 if a promise was broken. As root it runs in namespaces of its own, which some faults
need; what cannot be made on a machine is told and left out.

What belongs here: the order of events of one fault, and what is written. What does not: the faults (`faults…`), and
judging them (`chaos_outcome`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import faults_registry
import generators
import kernel
import orjson
import target as targets
from chaos_outcome import DEADLINE_S, Outcome, judge
from chaos_stack import stack_of
from plan import Plan
from published import publish
from traffic import Form, Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults import Fault

FAULTS = {one.name: one for one in (*faults.FAULTS, *faults_registry.FAULTS)}

TRAFFIC = Traffic(
    shares={Form.FP32: 0.4, Form.INT16: 0.4, Form.REST: 0.2}, fresh=0.3, popular=50, deadline_ms=int(DEADLINE_S * 1e3)
)
"""Some captures that are certainly cached, and enough that are not."""

_LONGEST_S = 120.0
"""Faults and checks may take so much longer than asked for: processes start again, an alias is followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A fault, what was promised, and what was measured."""

    fault: str
    promise: str
    lasted_s: float
    outcome: Outcome
    notes: list[str]
    broken: list[str]


def experience(fault: Fault, folder: Path, options: argparse.Namespace) -> Report:
    """Let one fault happen under load, and count.

    Args:
        fault: To be injected.
        folder: For logs, data and records.
        options: Of the command line.
    """
    with stack_of(fault.shape, folder, options.models) as stack:
        captures = targets.save_captures(targets.Target("chaos", stack.url), folder / "captures.npy")
        plan = Plan(
            url=stack.url,
            captures=captures,
            records=folder / "records.jsonl",
            seconds=3 * options.seconds + _LONGEST_S,
            traffic=TRAFFIC,
            rate_hz=options.rate,
        )
        with generators.started_open_loop(plan) as end:
            time.sleep(options.seconds)
            begin_s = time.monotonic()
            fault.inject(stack, options.seconds)
            end_s = time.monotonic()
            fault.check(stack)
            time.sleep(max(0.0, end_s + options.seconds - time.monotonic()))
            records = end()
    outcome = judge(fault.promise, records, begin_s, end_s)
    return Report(
        fault=fault.name,
        promise=fault.promise.text,
        lasted_s=end_s - begin_s,
        outcome=outcome,
        notes=stack.notes,
        broken=[*outcome.broken, *stack.broken],
    )


def as_table(reports: Sequence[Report]) -> str:
    """For the docs."""
    lines = ["| fault | promise | kept | while it lasted | after it | P99 before, during, after, ms | besides |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    return "\n".join([*lines, *map(as_row, reports)]) + "\n"


def as_row(report: Report) -> str:
    """One row of the table."""
    phases = (report.outcome.before, report.outcome.during, report.outcome.after)
    p99_ms = ", ".join(f"{phase.p99_ms:.0f}" for phase in phases)
    kept = "**no**" if report.broken else "yes"
    besides = "; ".join([*report.notes, *report.broken]).replace("|", "/")
    cells = (report.fault, report.promise, kept, str(phases[1]), str(phases[2]), p99_ms, besides)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the faults that the command line names, or all of them."""
    options = _options()
    kernel.enter_own_namespaces()
    reports: list[Report] = []
    left_out: list[str] = []
    for name in options.faults or FAULTS:
        fault = FAULTS[name]
        if missing := ", ".join(filter(None, (fault.shape.missing(), fault.missing()))):
            left_out.append(f"{name}: needs {missing}")
            continue
        reports.append(experience(fault, _emptied(options.out / re.sub(r"\W+", "-", name)), options))
        sys.stdout.write(as_row(reports[-1]) + "\n")
        sys.stdout.flush()
        _write(options, reports, left_out)
    sys.stdout.write("".join(f"left out: {one}\n" for one in left_out))
    if options.docs:
        publish(options.docs, "chaos, one machine", _as_page(options, reports, left_out))
    if broken := [one.fault for one in reports if one.broken]:
        sys.exit(f"NOT KEPT: {', '.join(broken)}")


def _emptied(folder: Path) -> Path:
    """The folder without what an earlier run has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write(options: argparse.Namespace, reports: Sequence[Report], left_out: Sequence[str]) -> None:
    document = {
        "at": _now(),
        "rate_hz": options.rate,
        "seconds": options.seconds,
        "faults": [dataclasses.asdict(one) for one in reports],
        "left_out": left_out,
    }
    (options.out / "chaos.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    (options.out / "chaos.md").write_text(_as_page(options, reports, left_out), encoding="utf-8")


def _as_page(options: argparse.Namespace, reports: Sequence[Report], left_out: Sequence[str]) -> str:
    told = (
        f"{_now()}, {os.cpu_count()} CPUs, {options.rate:.0f} requests a second, {options.seconds:.0f} s before, during"
    )
    told += f" and after each fault; load average at the end {os.getloadavg()[0]:.1f}."
    return "\n".join([told, "", as_table(reports), *(f"- left out: {one}" for one in left_out)])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"all, or some of: {', '.join(FAULTS)}")
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder for the results")
    parser.add_argument("--docs", type=lambda text: Path(text).resolve(), help="page to put the table into")
    parser.add_argument("--models", type=lambda text: Path(text).resolve(), default=Path("build/reference").resolve())
    parser.add_argument("--seconds", type=float, default=8.0, help="before, during and after each fault")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    options = parser.parse_args()
    if unknown := set(options.faults) - FAULTS.keys():
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
