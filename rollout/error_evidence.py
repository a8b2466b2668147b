"""Whether the canary's predictor fails more often than the stable one.

What belongs here: the error ratio's signal. What does not: its statistics (`proportions`).

Tested is the difference of the error ratios, in points and not as a ratio: a stable arm without any error would make
every ratio infinite. Both answers are anytime-valid: "worse than allowed" is ever said of a version that is not with
a probability of at most alpha, and "better than unacceptable" of one that is not with at most beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.proportions import Counts, difference_bounds, exceeds, stays_below
from rollout.verdict import Outcome, Reason

if TYPE_CHECKING:
    from rollout.arrays import Bools
    from rollout.measurements import Calls

SIGNAL = "errors"


@dataclass(frozen=True, slots=True)
class ErrorTest:
    """What is tested at one step, and how surely.

    Attributes:
        allowed_increase: Failed when the canary's error ratio is shown to be more than this above the stable one's.
        unacceptable_increase: Passed when it is shown to be less than this above.
        alpha: Probability of failing a version that is allowed.
        beta: Probability of passing one that is unacceptable.
    """

    allowed_increase: float
    unacceptable_increase: float
    alpha: float
    beta: float

    def fails(self, canary: Counts, stable: Counts) -> Bools:
        """Whether the canary is shown to be worse than allowed; elementwise for arrays of counts."""
        return exceeds(canary, stable, self.allowed_increase, self.alpha)

    def passes(self, canary: Counts, stable: Counts) -> Bools:
        """Whether the canary is shown to be better than unacceptable; elementwise for arrays of counts."""
        return stays_below(canary, stable, self.unacceptable_increase, self.beta)

    def judge(self, canary: Calls, stable: Calls) -> Reason:
        """What the counts of both arms say."""
        c, s = Counts(canary.errors, canary.total), Counts(stable.errors, stable.total)
        outcome, increase = Outcome.INCONCLUSIVE, float(c.proportion - s.proportion)
        bounds = difference_bounds(c, s, self.alpha)
        figure, bound = increase, self.allowed_increase
        if self.fails(c, s):
            outcome, figure = Outcome.FAIL, float(bounds.low)
        elif self.passes(c, s):
            outcome, figure = Outcome.PASS, float(difference_bounds(c, s, self.beta).high)
            bound = self.unacceptable_increase
        sentence = (
            f"{canary.errors:g} of the canary's {canary.total:g} calls failed and {stable.errors:g} of the "
            f"stable arm's {stable.total:g}: {increase:+.2%} points, surely between {float(bounds.low):+.2%} and "
            f"{float(bounds.high):+.2%}; allowed {self.allowed_increase:+.2%}, "
            f"unacceptable {self.unacceptable_increase:+.2%}"
        )
        return Reason(SIGNAL, outcome, figure, bound, sentence)
