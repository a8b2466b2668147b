"""What a fault did to the requests, and whether that is what was promised.

What belongs here: counting and judging, pure. What does not: how a fault is made (`faults_…`), and running it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from figures import wrong
from records import NO_ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from records import Record

DEADLINE_S = 5.0
"""What every request says that it is willing to wait."""

GRACE_S = 1.0
"""How much later an answer may be there: the network, and a machine with other work."""

SETTLED_S = 2.0
"""How long after the end of a fault its consequences may be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What clients may see of a fault.

    Attributes:
        text: For people.
        statuses: What may be answered while it lasts and `SETTLED_S` longer; 503 has to say when to come again.
        lost: Whether requests may get no answer at all: those in flight, and those that find nobody.
        late: Whether answers may take longer than the deadline, because who should keep it stands still.
        same_model: Whether the model that answers must stay the same while it lasts.
        felt: Whether somebody has to be refused, lost or late: a fault too short for that says nothing of the promise.
    """

    text: str
    statuses: frozenset[int] = frozenset({200})
    lost: bool = False
    late: bool = False
    same_model: bool = False
    felt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The requests that were meant for one span of time; latencies in milliseconds.

    Attributes:
        refused: Answered with an error.
        lost: Not answered.
    """

    requests: int
    answered: int
    refused: dict[str, int]
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, records: Sequence[Record]) -> Phase:
        """Count them."""
        latency_ms = np.array([one.latency_s for one in records]) * 1e3 if records else np.array([np.nan])
        statuses = [one.status for one in records]
        others = sorted(set(statuses) - {200, NO_ANSWER})
        return cls(
            requests=len(records),
            answered=statuses.count(200),
            refused={str(status): statuses.count(status) for status in others},
            lost=statuses.count(NO_ANSWER),
            p50_ms=float(np.median(latency_ms)),
            p99_ms=float(np.percentile(latency_ms, 99)),
            max_ms=float(latency_ms.max()),
        )

    def __str__(self) -> str:
        refused = "".join(f", {count} × {status}" for status, count in self.refused.items())
        lost = f", {self.lost} lost" if self.lost else ""
        return f"{self.answered}/{self.requests} answered{refused}{lost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a fault.

    Attributes:
        before: Requests before the fault.
        during: While it lasted.
        after: From its end on.
        recovery_s: From the end of the fault to the last request that failed, by the moment it was meant to be sent.
        broken: What was promised and not kept, as sentences.
    """

    before: Phase
    during: Phase
    after: Phase
    recovery_s: float
    broken: tuple[str, ...]


def judge(promise: Promise, records: Sequence[Record], begin_s: float, end_s: float) -> Outcome:
    """Count the requests of a fault that lasted from `begin_s` to `end_s`, and hold them against its promise.

    Args:
        promise: What clients may see.
        records: All of the load's, in the order of their intended moments.
        begin_s: Monotonic, as in the records.
        end_s: The same.
    """
    # A request that began before the fault and was not done when it came belongs to the fault.
    before = [one for one in records if one.done_s < begin_s]
    after = [one for one in records if one.intended_s >= end_s]
    during = [one for one in records if one.done_s >= begin_s and one.intended_s < end_s]
    failed_s = [one.intended_s - end_s for one in after if not one.ok]
    return Outcome(
        before=Phase.of(before),
        during=Phase.of(during),
        after=Phase.of(after),
        recovery_s=max(failed_s, default=0.0),
        broken=tuple(_broken(promise, before, during, after, end_s)),
    )


def _broken(
    promise: Promise, before: Sequence[Record], during: Sequence[Record], after: Sequence[Record], end_s: float
) -> Iterator[str]:
    troubled = [*during, *(one for one in after if one.intended_s < end_s + SETTLED_S)]
    healthy = [*before, *(one for one in after if one.intended_s >= end_s + SETTLED_S)]
    allowed = promise.statuses | ({NO_ANSWER} if promise.lost else set())
    if not_allowed := [one for one in troubled if one.status not in allowed]:
        yield f"{_named(not_allowed)} while it lasted"
    if failed := [one for one in healthy if not one.ok]:
        yield f"{_named(failed)} before it, or more than {SETTLED_S:.0f} s after it"
    if any(one.status == 503 and not one.retry_after for one in troubled):
        yield "a 503 did not say when to come again"
    if differing := wrong([one for one in (*before, *during, *after) if one.ok]):
        yield f"{differing} answers differ from earlier ones to the same capture"
    late = [one for one in troubled if one.done_s - one.sent_s > DEADLINE_S + GRACE_S]
    if late and not promise.late:
        yield f"{len(late)} answers later than {DEADLINE_S + GRACE_S:.0f} s"
    if promise.felt and not late and all(one.ok for one in troubled):
        yield "nobody noticed it, so that nothing is shown"
    models = {one.model for one in (*before, *during) if one.model}
    if promise.same_model and len(models) != 1:
        yield f"{len(models)} models answered"
    if not (before and during and after):
        yield "nothing was sent in one of the phases"


def _named(records: Sequence[Record]) -> str:
    """A few of the failures, for people."""
    found = sorted({f"{one.status} {one.error}".strip()[:120] for one in records})
    return f"{len(records)} failed ({'; '.join(found[:3])})"
