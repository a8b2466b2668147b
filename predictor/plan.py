"""How a model is best run, decided from what was measured while it was warmed up.

What belongs here: the two decisions (in the event loop or in a thread; batched or not) and their bounds. Pure: nothing
is measured or run here.

**Batching** pays where a batch costs clearly less than its items one by one: for matrix products whose weights are
read once for all items, or where a run's fixed cost dominates. For a small convolutional network it does not, and
gathering the inputs would cost extra. So it is used only where the largest batch was measured to take at most
`WORTHWHILE` of that.

**In the event loop** a run needs no hand-over to a thread and back, which costs 60 to 100 µs of CPU when nothing else
is going on: more than a small network itself. While it runs nothing else is served, so this is done only where the run
is expected to stay short: the cost must follow from the shapes alone (`bounded`), a run of those shapes must have been
measured to stay below the limit, and should runs take much longer after all, the model goes to the threads for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WORTHWHILE = 0.5
"""A batch of n must take at most so much of n single runs."""

_STRIKES = 3
_EXCESS = 10
"""So many runs in a row that take so many times the limit end the running in the event loop. One alone proves nothing:
a process that is not scheduled for a while sees the same."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run.

    Attributes:
        max_rows: The largest batch that requests are gathered to; 1 where they are not.
        inline_rows: Requests of at most so many rows run in the event loop; 0 where none does.
    """

    max_rows: int = 1
    inline_rows: int = 0


def plan_for(
    run_s: Mapping[int, float], *, independent: bool, bounded: bool, max_rows: int, inline_limit_s: float
) -> Plan:
    """The plan for a model.

    Args:
        run_s: The measured time of a run in seconds, by the size of its batch.
        independent: Whether the rows of a batch do not depend on each other.
        bounded: Whether the cost of a run follows from the shapes of its inputs.
        max_rows: The largest batch that is wanted.
        inline_limit_s: The longest run that the event loop may be held up by; 0 for none.
    """
    single_s, batch_s = run_s.get(1), run_s.get(max_rows)
    pays = single_s is not None and batch_s is not None and batch_s <= WORTHWHILE * max_rows * single_s
    short = [rows for rows, seconds in run_s.items() if seconds <= inline_limit_s]
    return Plan(
        max_rows=max_rows if pays and independent and max_rows > 1 else 1,
        inline_rows=max(short, default=0) if bounded else 0,
    )


class InlineRuns:
    """Whether a request may run in the event loop; learns from each run that did.

    Args:
        rows: At most so many.
        limit_s: What such a run was measured to stay below.
    """

    __slots__ = ("_excessive_s", "_strikes", "rows")

    def __init__(self, rows: int, limit_s: float) -> None:
        self.rows = rows
        self._excessive_s = _EXCESS * limit_s
        self._strikes = 0

    def allow(self, rows: int) -> bool:
        """Whether a request of so many rows may run in the event loop."""
        return rows <= self.rows and self.rows > 0

    def took(self, seconds: float) -> bool:
        """Tell how long a run took. False says that it was one too many, and that no other is allowed."""
        if seconds <= self._excessive_s:
            self._strikes = 0
            return True
        self._strikes += 1
        if self._strikes < _STRIKES:
            return True
        self.rows = 0
        return False
