"""Running a load generator in a process of its own, and what came of it.

What belongs here: the two command lines, the time they may take, and the generator's own CPU time. What does not: what
they do (`open_loop`, `closed_loop`).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import records
from plan import PLAN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from plan import Plan
    from records import Record

HERE = Path(__file__).parent
_SPARE_S = 60.0
"""For starting and writing, beyond what the plan says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a generator brought back.

    Attributes:
        records: One for each request.
        cpu_s: CPU time that the generator itself took; on one machine it competes with the service for it.
    """

    records: list[Record]
    cpu_s: float


class GeneratorFailed(Exception):
    """A generator ended with an error; its output is told."""


def open_loop(plan: Plan) -> Outcome:
    """Requests at moments fixed in advance."""
    return _run(plan, [sys.executable, str(HERE / "open_loop.py"), str(_saved(plan))])


def closed_loop(plan: Plan, html: Path | None = None) -> Outcome:
    """Clients that wait for their answers, by locust; with its own report if `html` names a file."""
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "closed_loop.py"), "--headless", "--only-summary"]
    command += ["--exit-code-on-error", "0", "--loglevel", "WARNING"]
    return _run(plan, [*command, *(("--html", str(html)) if html else ())])


@contextmanager
def started_open_loop(plan: Plan) -> Iterator[Callable[[], list[Record]]]:
    """The open loop in the background, sending; what is yielded ends it, waits for its answers and returns them all."""
    command = [sys.executable, str(HERE / "open_loop.py"), str(_saved(plan))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def end() -> list[Record]:
            process.terminate()
            output, _ = process.communicate(timeout=plan.timeout_s + _SPARE_S)
            if process.returncode:
                raise GeneratorFailed(output[-4000:])
            return records.read(plan.records)

        try:
            first = process.stdout.readline() if process.stdout else ""
            if not first:
                raise GeneratorFailed(f"{command} said nothing")
            yield end
        finally:
            process.kill()


def _saved(plan: Plan) -> Path:
    return plan.save(plan.records.with_suffix(".plan.json"))


def _run(plan: Plan, command: Sequence[str]) -> Outcome:
    environ = os.environ | {PLAN_VARIABLE: str(_saved(plan))}
    before_s = _children_s()
    limit_s = plan.seconds + plan.timeout_s + _SPARE_S
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise GeneratorFailed(done.stdout[-2000:] + done.stderr[-2000:])
    return Outcome(records.read(plan.records), _children_s() - before_s)


def _children_s() -> float:
    """CPU time of child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
