"""Means of captures and their uncertainty, by resampling whole positions.

What belongs here: the studentised cluster bootstrap of a mean. What does not: which means are judged.

Captures of one transmitter position share its shadowing and geometry, so positions are drawn with replacement, not
captures (cluster bootstrap: Cameron, Gelbach & Miller, Rev. Econ. Stat. 90 (2008) 414). The mean m = Σs/Σn over
positions with sums s of n captures has the linearised standard error √Σ(s − m·n)²/Σn, and what is resampled is t =
(m* − m)/se* (Efron 1979; Hall, The Bootstrap and Edgeworth Expansion, 1992, §3.5): the error of a one-sided bound is
then of order 1/n, where that of percentiles is of order 1/√n, which matters for skewed values such as
log-likelihoods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.arrays import F32, F64, I64

_SEED = 2_026
"""Fixed, so that the same measurements always give the same verdict."""

_CHUNK = 500
"""Resamples held in memory at once: 10 MB for 5,000 positions."""


class Sums(NamedTuple):
    """Values per position: [V,G] sums, [G] captures."""

    values: F64
    captures: F64


def by_position(values: F64, position: I64) -> Sums:
    """Add up [V,K] values of captures that are from the same of G positions ([K], any integers)."""
    _, group = np.unique(position, return_inverse=True)
    captures = np.bincount(group).astype(np.float64)
    return Sums(np.stack([np.bincount(group, weights=row) for row in values]), captures)


def mean(sums: Sums) -> F64:
    """Mean [V] per capture."""
    return np.asarray(sums.values.sum(axis=1) / sums.captures.sum(), dtype=np.float64)


def standard_error(sums: Sums) -> F64:
    """Linearised standard error [V] of the mean."""
    residual = sums.values - mean(sums)[:, None] * sums.captures
    return np.asarray(np.sqrt((residual**2).sum(axis=1)) / sums.captures.sum(), dtype=np.float64)


def t_scores(sums: Sums, resamples: int) -> F64:
    """Studentised means [B,V] of B resamples, sorted along B; values of one kind that are all equal give zeros."""
    centred = sums.values - mean(sums)[:, None] * sums.captures
    scale = np.sqrt((centred**2).mean(axis=1))[:, None]
    unit = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0.0)
    drawn = _weights(unit.shape[1], resamples)
    return np.sort(np.concatenate([_studentised(weights, unit, sums.captures) for weights in drawn]), axis=0)


def lower_bounds(sums: Sums, scores: F64, alpha: F64) -> F64:
    """Lower confidence bounds [V] of the means, each at its own one-sided level.

    Args:
        sums: Of V kinds of values.
        scores: Of `t_scores`.
        alpha: [V] probability that the mean is below its bound; not smaller than 1/(B + 1).
    """
    # The k-th of B scores has the level k/(B + 1), rounded up so that the bound errs on the safe side.
    rank = np.ceil((1.0 - alpha) * (len(scores) + 1) - 1e-9).astype(np.int64)
    critical = scores[np.clip(rank, 1, len(scores)) - 1, np.arange(len(alpha))]
    return np.asarray(mean(sums) - critical * standard_error(sums), dtype=np.float64)


def upper_bounds(sums: Sums, scores: F64, alpha: F64) -> F64:
    """Upper confidence bounds [V], as `lower_bounds` of the values with the opposite sign."""
    mirrored = Sums(-sums.values, sums.captures)
    return -lower_bounds(mirrored, -scores[::-1], alpha)


def _studentised(weights: F32, unit: F64, captures: F64) -> F64:
    """Scores t [B,V] of centred sums: their mean is zero, so that t is the resampled mean over its own standard error.

    Σw·(s − m·n)² is expanded into three products, which makes all of it matrix multiplications.
    """
    values = unit.T.astype(np.float32)
    sizes = captures.astype(np.float32)
    total = (weights @ sizes)[:, None].astype(np.float64)
    average = (weights @ values).astype(np.float64) / total
    square = (weights @ values**2).astype(np.float64)
    cross = (weights @ (values * sizes[:, None])).astype(np.float64)
    size_square = (weights @ sizes**2)[:, None].astype(np.float64)
    variance = np.maximum(square - 2.0 * average * cross + average**2 * size_square, 0.0)
    error = np.sqrt(variance) / total
    return np.divide(average, error, out=np.zeros_like(average), where=error > 0.0)


def _weights(positions: int, resamples: int) -> Iterator[F32]:
    """How often each position is drawn, [B',G] at a time."""
    rng = np.random.default_rng(_SEED)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = rng.integers(positions, size=(rows, positions)) + positions * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * positions).reshape(rows, positions).astype(np.float32)
