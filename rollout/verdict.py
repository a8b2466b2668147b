"""What a judgement says: its outcome, and every reason as figures and one sentence.

What belongs here: the values. What does not: how they are reached (`assess` and the evidence modules).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What to do with a canary."""

    PASS = "pass"  # noqa: S105 - the word of the verdict, no password
    """Every signal is shown to be acceptable: go on to the next step."""
    FAIL = "fail"
    """At least one signal is shown to be worse than allowed: roll back."""
    INCONCLUSIVE = "inconclusive"
    """Neither is shown: leave the traffic where it is."""
    ERROR = "error"
    """The measurements contradict each other: leave the traffic where it is and tell a person."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What one signal says.

    Attributes:
        signal: Its name, such as "errors", "latency", "log-likelihood" or "coverage at 95%".
        outcome: This signal's own.
        figure: The measured value that was compared; None where there is none.
        bound: What it was compared with; None where there is none.
        sentence: For people, figures and units included.
    """

    signal: str
    outcome: Outcome
    figure: float | None
    bound: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one look.

    Attributes:
        outcome: What all reasons together say.
        reasons: Every signal's, those that decided first.
        notes: What is worth seeing and is not judged: live distributions, disagreement.
        overdue: Whether the step has lasted as long as the policy lets it, so that waiting on is no use.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()
    overdue: bool = False
