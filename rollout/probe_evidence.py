"""Whether the canary's model is as good and as honest as the stable one, on captures of known position.

What belongs here: the scores of answers, and the one test of fixed size on them. What does not: resampling
(`resampling`).

Every signal is a mean over captures of an *excess over its margin*, which is at most zero for a version that is
allowed:

    log-likelihood  clip(ln f_stable(truth) − ln f_canary(truth)) − allowed loss
    RMS error       |e_canary|² − ratio²·|e_stable|²
    NEES            eᵀΣ⁻¹e − highest, and lowest − eᵀΣ⁻¹e
    coverage at p   (p − tolerance) − [inside], and [inside] − (p + tolerance)

The log-likelihood is a proper score (Gneiting & Raftery, J. Am. Stat. Assoc. 102 (2007) 359), so that it sees what
neither coverage nor NEES can, such as ellipses that are right on average and never point anywhere. Its difference is
clipped per capture (Huber, Ann. Math. Stat. 35 (1964) 73); what that hides, a version that is wildly wrong now and
then, NEES and coverage show. NEES is 2 for honest covariances (Bar-Shalom, Li & Kirubarajan, Estimation, 2001,
§5.4.2).

It fails when the lower confidence bound of one of them is above zero. The probe set is looked at once, at a size that
was fixed beforehand such that the smallest harm that matters is caught (`Policy.probe_captures`); so not failing is
passing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rollout.resampling import Sums, by_position, lower_bounds, mean, t_scores, upper_bounds
from rollout.verdict import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rollout.arrays import F64, Bools
    from rollout.measurements import ProbeAnswers, ProbeResults

SIGNAL = "probe set"
LOG_LIKELIHOOD = "log-likelihood"

CLIP_NATS = 1.0
"""Largest difference of one capture's log-likelihoods. Unclipped, the 1 % of the captures that one version
misjudges most carry about 60 % of the variance, and far more captures are needed (docs/verdict.md)."""

_LOG_LIKELIHOOD_SHARE = 0.5
"""Of alpha: it is the signal that the size of the probe set is computed for; the others share the rest evenly."""

_INTERVAL_TAIL = 0.025
"""Of the intervals that are shown to people; they decide nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Excess:
    """One side of one signal.

    Attributes:
        signal: Its name.
        values: [K] excess over the margin; a positive mean is not allowed.
        bound: The margin.
        figure: The measured quantity that belongs to a mean excess.
    """

    signal: str
    values: F64
    bound: float
    figure: Callable[[float], float]


@dataclass(frozen=True, slots=True)
class ProbeTest:
    """What is tested on the probe set, and how surely.

    Attributes:
        captures: Smallest number that is enough.
        allowed_loss: Of mean log-likelihood per capture, in nats.
        allowed_rms_ratio: Canary's RMS error to the stable one's.
        nees_range: Lowest and highest mean NEES.
        coverage_tolerance: Largest distance of a coverage from its level.
        alpha: Probability of failing a version that is allowed.
        resamples: Of the bootstrap.
    """

    captures: int
    allowed_loss: float
    allowed_rms_ratio: float
    nees_range: tuple[float, float]
    coverage_tolerance: float
    alpha: float
    resamples: int

    def judge(self, probe: ProbeResults) -> tuple[Reason, ...]:
        """What the answers say: one reason per signal, or the one why nothing can be said."""
        unanswered = [unanswered_captures(answers) for answers in (probe.stable, probe.canary)]
        if any(unanswered):
            sentence = f"the stable version left {unanswered[0]} captures unanswered and the canary {unanswered[1]}"
            return (Reason(SIGNAL, Outcome.INCONCLUSIVE, float(max(unanswered)), 0.0, sentence),)
        count = len(probe.position)
        if count < self.captures:
            sentence = f"the probe set has {count} captures, and {self.captures} are needed"
            return (Reason(SIGNAL, Outcome.INCONCLUSIVE, float(count), float(self.captures), sentence),)
        excesses = self.excesses(probe)
        sums = by_position(np.stack([excess.values for excess in excesses]), probe.position)
        return tuple(_worse_sides(_reasons(excesses, sums, self.levels(len(excesses)), self.resamples)))

    def levels(self, signals: int) -> F64:
        """Error probability of each of so many signals, the log-likelihood's first; they add to alpha."""
        shares = np.full(signals, (1.0 - _LOG_LIKELIHOOD_SHARE) / max(signals - 1, 1))
        shares[0] = _LOG_LIKELIHOOD_SHARE
        return np.asarray(self.alpha * shares, dtype=np.float64)

    def excesses(self, probe: ProbeResults) -> tuple[Excess, ...]:
        """Every signal's sides, the log-likelihood first."""
        lowest, highest = self.nees_range
        loss = np.clip(log_likelihoods(probe.stable) - log_likelihoods(probe.canary), -CLIP_NATS, CLIP_NATS)
        nees = normalised_squares(probe.canary)
        return (
            Excess(LOG_LIKELIHOOD, loss - self.allowed_loss, -self.allowed_loss, lambda m: -self.allowed_loss - m),
            self._rms(probe),
            Excess("NEES", nees - highest, highest, lambda m: highest + m),
            Excess("NEES", lowest - nees, lowest, lambda m: lowest - m),
            *(side for index in range(len(probe.levels)) for side in self._coverage(probe, index)),
        )

    def _rms(self, probe: ProbeResults) -> Excess:
        # The figure's interval takes the stable arm's mean square as known; what decides is the excess, which does not.
        canary_m2, stable_m2 = ((answers.error_m**2).sum(axis=1) for answers in (probe.canary, probe.stable))
        squared, reference_m2 = self.allowed_rms_ratio**2, float(stable_m2.mean())
        return Excess(
            "RMS error ratio",
            canary_m2 - squared * stable_m2,
            self.allowed_rms_ratio,
            lambda m: float(np.sqrt(max(squared + m / reference_m2, 0.0))),
        )

    def _coverage(self, probe: ProbeResults, index: int) -> tuple[Excess, Excess]:
        level, inside = probe.levels[index], probe.canary.inside[:, index].astype(np.float64)
        low, high, name = level - self.coverage_tolerance, level + self.coverage_tolerance, f"coverage at {level:.0%}"
        return Excess(name, low - inside, low, lambda m: low - m), Excess(name, inside - high, high, lambda m: high + m)


def unanswered_captures(answers: ProbeAnswers) -> int:
    """Captures whose answer is missing or makes no sense."""
    return int((~answered(answers)).sum())


def answered(answers: ProbeAnswers) -> Bools:
    """Which captures [K] have an answer that makes sense: finite, and with a positive definite covariance."""
    finite = np.isfinite(answers.error_m).all(axis=1) & np.isfinite(answers.covariance_m2).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        positive = (_determinant(answers.covariance_m2) > 0.0) & (answers.covariance_m2[:, 0, 0] > 0.0)
    return np.asarray(finite & positive, dtype=np.bool_)


def normalised_squares(answers: ProbeAnswers) -> F64:
    """eᵀΣ⁻¹e [K], by the closed inverse of a 2×2 matrix."""
    east, north = answers.error_m.T
    covariance = answers.covariance_m2
    weighted = covariance[:, 1, 1] * east**2 - 2.0 * covariance[:, 0, 1] * east * north + covariance[:, 0, 0] * north**2
    return np.asarray(weighted / _determinant(covariance), dtype=np.float64)


def log_likelihoods(answers: ProbeAnswers) -> F64:
    """Gaussian log density [K] of the truth, per m²: −½·eᵀΣ⁻¹e − ½·ln det Σ − ln 2π."""
    spread = 0.5 * np.log(_determinant(answers.covariance_m2)) + np.log(2.0 * np.pi)
    return np.asarray(-0.5 * normalised_squares(answers) - spread, dtype=np.float64)


def _determinant(covariance: F64) -> F64:
    return np.asarray(covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] ** 2, dtype=np.float64)


def _reasons(excesses: tuple[Excess, ...], sums: Sums, levels: F64, resamples: int) -> Iterator[tuple[float, Reason]]:
    """Each side's mean excess with what it says."""
    scores = t_scores(sums, resamples)
    lows = lower_bounds(sums, scores, levels)
    sides = np.full(len(levels), _INTERVAL_TAIL)
    ends = lower_bounds(sums, scores, sides), upper_bounds(sums, scores, sides)
    for index, (excess, middle) in enumerate(zip(excesses, mean(sums).tolist(), strict=True)):
        figure = excess.figure(middle)
        low, high = sorted(excess.figure(float(end[index])) for end in ends)
        outcome = Outcome.FAIL if lows[index] > 0.0 else Outcome.PASS
        claim = "surely worse" if outcome is Outcome.FAIL else "not shown to be worse"
        sentence = (
            f"{excess.signal} {figure:.4g} (95 % interval {low:.4g} to {high:.4g}; {sums.captures.sum():g} captures of "
            f"{len(sums.captures)} positions), {claim} than the allowed {excess.bound:.4g}"
        )
        yield middle, Reason(excess.signal, outcome, figure, excess.bound, sentence)


def _worse_sides(found: Iterable[tuple[float, Reason]]) -> list[Reason]:
    """Of a signal with two sides only the one that is nearer to failing: both never fail at once."""
    worst: dict[str, tuple[float, Reason]] = {}
    for excess, reason in found:
        if reason.signal not in worst or excess > worst[reason.signal][0]:
            worst[reason.signal] = excess, reason
    return [reason for _, reason in worst.values()]
