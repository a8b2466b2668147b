"""What the exit code of `heimdall` says; its help tells the same.

What belongs here: the numbers, and which end of a release has which. What does not: errors (`cli`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.release import Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from rollout.steps import Ended

DONE, NOT_GOOD_ENOUGH, USAGE, INCONCLUSIVE, REFUSED, FAILURE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

OF_OUTCOME = {
    Outcome.PASS: DONE,
    Outcome.FAIL: NOT_GOOD_ENOUGH,
    Outcome.INCONCLUSIVE: INCONCLUSIVE,
    Outcome.ERROR: FAILURE,
}


def of(ended: Ended) -> int:
    """The exit code of a run that was meant to promote a version."""
    if ended.outcome is not Outcome.PASS:
        return OF_OUTCOME[ended.outcome]
    return {Stage.ROLLED_BACK: NOT_GOOD_ENOUGH, Stage.REFUSED: REFUSED}.get(ended.release.stage, DONE)
