"""Runs against one target and their figures.

What belongs here: one run of a generator, with what it cost, as values. What does not: which runs there are (`prove`).
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import generators
import target as targets
from figures import Figures, by_form, figures, wrong
from flatness import Slope, slope
from plan import Plan
from traffic import MIXED, Traffic
from watch import cpu_spent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from generators import Outcome
    from processes import Usage
    from target import Target

MEMORY_BYTES_PER_HOUR = 10e6
"""Most growth that counts as flat: a pod that begins at 250 MB would reach its limit of 1 GiB after three days."""

REST_S = 45.0
"""After so long without requests every connection that was kept for the next one is closed: they are kept for 30 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run.

    Attributes:
        name: What it shows, unique in a report.
        offered: Clients of a closed loop, or requests a second of an open one.
        batch: Captures in a request.
        figures: Over all requests.
        forms: The same for each form.
        wrong: Answers that differ from an earlier one to the same capture of the same model.
        cpu_ms: Part of the service → CPU milliseconds for one request.
        generator_cpu_ms: The generator's own.
        load_average: The machine's, over a minute, at the end of the run.
        records: The file with every request, beside the report.
    """

    name: str
    offered: float
    batch: int
    figures: Figures
    forms: Mapping[str, Figures]
    wrong: int
    cpu_ms: Mapping[str, float]
    generator_cpu_ms: float
    load_average: float
    records: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How one part's memory grew under load (bytes an hour), and its descriptors from one rest to the next.

    Under load the number of descriptors is that of the connections in use, so it follows the machine's other work. At
    rest it can be counted on.
    """

    part: str
    memory: Slope
    descriptors_before: int
    descriptors_after: int

    @property
    def flat(self) -> bool:
        """Whether even the upper end of the memory's interval is small, and no descriptor stayed open."""
        return self.memory.upper_per_hour < MEMORY_BYTES_PER_HOUR and self.descriptors_after <= self.descriptors_before


class Proof:
    """Runs against one target, whose records lie in one folder."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.measured: list[Measured] = []
        self._captures = targets.save_captures(target, folder / "captures.npy")

    def closed(self, name: str, clients: int, seconds: float, traffic: Traffic = MIXED, html: str = "") -> Measured:
        """So many clients, each waiting for its answers."""
        plan = self._plan(name, seconds, traffic, clients=clients)
        return self._run(
            name, plan, clients, lambda: generators.closed_loop(plan, self.folder / html if html else None)
        )

    def open(self, name: str, rate_hz: float, seconds: float, traffic: Traffic = MIXED) -> Measured:
        """Requests at a rate, whatever becomes of them."""
        plan = self._plan(name, seconds, traffic, rate_hz=rate_hz)
        return self._run(name, plan, rate_hz, lambda: generators.open_loop(plan))

    def _plan(self, name: str, seconds: float, traffic: Traffic, **load: float) -> Plan:
        records = self.folder / f"{'-'.join(re.findall(r'[a-z0-9]+', name))}.jsonl"
        seed = len(self.measured) + 1
        place = {"url": self.target.url, "host": self.target.host, "captures": self._captures, "records": records}
        return dataclasses.replace(Plan(**place, seconds=seconds, traffic=traffic, seed=seed), **load)

    def _run(self, name: str, plan: Plan, offered: float, run: Callable[[], Outcome]) -> Measured:
        sys.stderr.write(f"{name}: {plan.seconds:.0f} s\n")
        with cpu_spent(self.target.meter) as spent_s:
            outcome = run()
        found = figures(outcome.records)
        answers = max(1, found.requests - found.failed)
        measured = Measured(
            name=name,
            offered=offered,
            batch=plan.traffic.batch,
            figures=found,
            forms=by_form(outcome.records),
            wrong=wrong([one for one in outcome.records if one.ok]),
            cpu_ms={part: cpu_s / answers * 1e3 for part, cpu_s in sorted(spent_s.items())},
            generator_cpu_ms=outcome.cpu_s / found.requests * 1e3,
            load_average=os.getloadavg()[0],
            records=plan.records.name,
        )
        self.measured.append(measured)
        return measured


def growth_of(part: str, before: Usage, taken: Sequence[Usage], after: Usage) -> Growth:
    """How a part grew from one rest to the next, with these samples taken in between."""
    memory = slope([one.at_s for one in taken], [one.memory_bytes for one in taken])
    return Growth(part=part, memory=memory, descriptors_before=before.descriptors, descriptors_after=after.descriptors)
