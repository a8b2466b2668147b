"""Evidence on proportions that may be looked at as often as one likes.

What belongs here: mixture martingales of Bernoulli counts, and the confidence sequences that they give. What does
not: what is counted.

After n independent trials with success probability p, k of them successes, the mixture likelihood ratio

    M(k, n; p) = ∫ θ^k (1−θ)^(n−k) dπ(θ) / (p^k (1−p)^(n−k)) = B(k+½, n−k+½) / (B(½,½) · p^k (1−p)^(n−k))

with π = Beta(½,½) is a martingale of mean one, so that by Ville's inequality it ever reaches 1/α with a probability
of at most α, at whatever times one looks (Robbins, Ann. Math. Stat. 41 (1970) 1397; Howard, Ramdas, McAuliffe &
Sekhon, Ann. Stat. 49 (2021) 1055, §3 and their beta-binomial boundary). The p that it has not reached it for form a
confidence sequence. π is Krichevsky and Trofimov's prior: M costs about ½·ln n against the best fixed alternative,
whatever p is.

Two independent arms: the product of their martingales is one too, however their trials are interleaved. Under a
difference d = p_canary − p_stable the rates are unknown, so it is divided by the likelihood of the best pair with
that difference:

    E(d) = min over p of M(k_c, n_c; p + d) · M(k_s, n_s; p)

which is at most the martingale at the true rates (Wasserman, Ramdas & Balakrishnan, PNAS 117 (2020) 16880, "universal
inference"; Turner, Ly & Grünwald, J. Stat. Plan. Inference 230 (2024), for two-sample e-processes). All of it is
exact: no normal approximation, no smallest count. Every function takes arrays of counts that broadcast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from rollout.arrays import F64, Bools

_HALF = 0.5
_LOG_PRIOR = float(betaln(_HALF, _HALF))

_HALVINGS = 48
"""Steps of a bisection: they leave 4·10⁻¹⁵ of an interval of length one, a few units of FP64's last place."""

_SECTIONS, _GRID = 6, np.linspace(0.0, 1.0, 65)
"""Six steps of 64 parts each leave 3·10⁻¹¹ of an interval of length two."""


class Counts(NamedTuple):
    """Successes (here often errors) among trials; numbers or arrays of one shape."""

    successes: ArrayLike
    trials: ArrayLike

    @property
    def proportion(self) -> F64:
        """Successes per trial; 0 before there were any trials."""
        trials = np.asarray(self.trials, dtype=np.float64)
        return np.asarray(np.asarray(self.successes) / np.maximum(trials, 1.0), dtype=np.float64)


class Bounds(NamedTuple):
    """Lower and upper ends of confidence sequences, of the counts' shape."""

    low: F64
    high: F64


def log_evidence(counts: Counts, proportion: ArrayLike) -> F64:
    """Evidence ln M against `proportion`: at or above ln(1/α) it is rejected at level α."""
    k, n = np.asarray(counts.successes, dtype=np.float64), np.asarray(counts.trials, dtype=np.float64)
    p = np.asarray(proportion, dtype=np.float64)
    return np.asarray(_log_mixture(k, n) - xlogy(k, p) - xlog1py(n - k, -p), dtype=np.float64)


def lower_bound(counts: Counts, alpha: float) -> F64:
    """The confidence sequence's lower end: with probability 1 − alpha both ends always hold the proportion."""
    best = counts.proportion
    low = _bisect(lambda p: log_evidence(counts, p) >= -np.log(alpha), np.zeros_like(best), best)
    return np.where(np.asarray(counts.successes) <= 0.0, 0.0, low)


def upper_bound(counts: Counts, alpha: float) -> F64:
    """The confidence sequence's upper end: with probability 1 − alpha both ends always hold the proportion."""
    best = counts.proportion
    high = _bisect(lambda p: log_evidence(counts, p) < -np.log(alpha), best, np.ones_like(best))
    return np.where(np.asarray(counts.successes) >= np.asarray(counts.trials), 1.0, high)


def log_difference_evidence(canary: Counts, stable: Counts, difference: ArrayLike) -> F64:
    """Evidence ln E(difference): at or above ln(1/α) the difference canary − stable is rejected at level α.

    A true difference on the far side of a rejected one, as seen from the measured difference, is rejected as well: the
    likelihood is concave in both rates.
    """
    kc, nc = np.asarray(canary.successes, dtype=np.float64), np.asarray(canary.trials, dtype=np.float64)
    ks, ns = np.asarray(stable.successes, dtype=np.float64), np.asarray(stable.trials, dtype=np.float64)
    d = np.asarray(difference, dtype=np.float64)
    p = _best_stable_proportion(kc, nc, ks, ns, d)
    likelihood = _log_likelihood(kc, nc, p + d) + _log_likelihood(ks, ns, p)
    return np.asarray(_log_mixture(kc, nc) + _log_mixture(ks, ns) - likelihood, dtype=np.float64)


def difference_bounds(canary: Counts, stable: Counts, alpha: float) -> Bounds:
    """The confidence sequence of canary − stable: with probability 1 − alpha it always holds it, on both sides."""
    limit, best = -np.log(alpha), canary.proportion - stable.proportion
    arms = [Counts(*(np.asarray(count, dtype=np.float64)[..., None] for count in arm)) for arm in (canary, stable)]

    def rejected(d: F64) -> Bools:
        return np.asarray(log_difference_evidence(arms[0], arms[1], d) >= limit, dtype=np.bool_)

    low = _section(rejected, -np.ones_like(best), best)
    high = _section(lambda d: ~rejected(d), best, np.ones_like(best))
    return Bounds(low, high)


def exceeds(canary: Counts, stable: Counts, difference: float, alpha: float) -> Bools:
    """Whether it is shown at level `alpha` that canary − stable is above `difference`."""
    shown = log_difference_evidence(canary, stable, difference) >= -np.log(alpha)
    return np.asarray(shown & (canary.proportion - stable.proportion > difference), dtype=np.bool_)


def stays_below(canary: Counts, stable: Counts, difference: float, alpha: float) -> Bools:
    """Whether it is shown at level `alpha` that canary − stable is below `difference`."""
    return exceeds(stable, canary, -difference, alpha)


def _log_mixture(successes: F64, trials: F64) -> F64:
    return np.asarray(betaln(successes + _HALF, trials - successes + _HALF) - _LOG_PRIOR, dtype=np.float64)


def _log_likelihood(successes: F64, trials: F64, proportion: F64) -> F64:
    return np.asarray(xlogy(successes, proportion) + xlog1py(trials - successes, -proportion), dtype=np.float64)


def _best_stable_proportion(kc: F64, nc: F64, ks: F64, ns: F64, d: F64) -> F64:
    """The stable arm's rate of the likeliest pair (p + d, p): where the score, which falls with p, changes sign."""
    lowest, highest = np.broadcast_arrays(np.maximum(0.0, -d), np.minimum(1.0, 1.0 - d), kc)[:2]

    def too_small(p: F64) -> Bools:
        # The ends of the interval are never tried, but rounding may put p + d on one: 0/0 then counts as no slope.
        with np.errstate(divide="ignore", invalid="ignore"):
            score = kc / (p + d) - (nc - kc) / (1.0 - p - d) + ks / p - (ns - ks) / (1.0 - p)
        return np.asarray(score > 0.0, dtype=np.bool_)

    best = _bisect(too_small, lowest.astype(np.float64), highest.astype(np.float64))
    return np.clip(best, lowest, highest)


def _bisect(below: Callable[[F64], Bools], low: F64, high: F64) -> F64:
    """Where `below` turns from true to false between `low` and `high`, elementwise."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        under = below(middle)
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return np.asarray(0.5 * (low + high), dtype=np.float64)


def _section(below: Callable[[F64], Bools], low: F64, high: F64) -> F64:
    """As `_bisect`, with 63 points at once [..., 63] between the ends: for functions that are bisections themselves."""
    for _ in range(_SECTIONS):
        grid = low[..., None] + (high - low)[..., None] * _GRID
        index = 1 + below(grid[..., 1:-1]).sum(axis=-1, keepdims=True)
        low, high = (np.take_along_axis(grid, end, axis=-1)[..., 0] for end in (index - 1, index))
    return np.asarray(0.5 * (low + high), dtype=np.float64)
