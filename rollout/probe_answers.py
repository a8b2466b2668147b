"""A version's answers to the probe set as they were served, and what they are worth once the truth is known.

What belongs here: pure functions from answers and truth to what is judged and shown. What does not: the network
(`probe_run`), and the judgement (`probe_evidence`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.evidence import Places, Probed
from rollout.geodesy import offsets_m
from rollout.measurements import Disagreement, ProbeAnswers, ProbeResults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rollout.arrays import F64, Bools
    from rollout.probe_set import ProbeSet

BASE_LEVEL = 0.95
"""The level of the ellipses that are asked for with every capture."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedAnswers:
    """One version's answers to K captures; NaN where there is none.

    Attributes:
        position_deg: [K,2] FP64, latitude and longitude.
        covariance_m2: [K,2,2] FP64, east and north.
        ellipse: [K,3] FP64, semi-major m, semi-minor m, bearing of the major axis in degrees clockwise from north, at
            `BASE_LEVEL`.
        confidence: [K] FP64.
        scales: [L] how much larger the ellipses of each of the probe set's levels are, as served.
    """

    position_deg: F64
    covariance_m2: F64
    ellipse: F64
    confidence: F64
    scales: tuple[float, ...]


def compared(probe_set: ProbeSet, stable: ServedAnswers, canary: ServedAnswers) -> Probed:
    """Both versions' answers with the truth and with each other."""
    results = ProbeResults(
        probe_set.levels, probe_set.position, judged(stable, probe_set.truth_deg), judged(canary, probe_set.truth_deg)
    )
    outside = ~within(offsets_m(stable.position_deg, canary.position_deg), stable.ellipse) & ~within(
        offsets_m(canary.position_deg, stable.position_deg), canary.ellipse
    )
    distance_m = np.linalg.norm(offsets_m(stable.position_deg, canary.position_deg), axis=-1)
    answered = np.isfinite(distance_m)
    outside &= answered
    median_m = float(np.median(distance_m[answered])) if answered.any() else 0.0
    return Probed(
        results,
        Disagreement(int(answered.sum()), median_m, int(outside.sum())),
        Places(probe_set.truth_deg, stable.position_deg, canary.position_deg, outside),
    )


def judged(served: ServedAnswers, truth_deg: F64) -> ProbeAnswers:
    """Answers as errors: the truth [K,2] as seen from each answer, and the ellipses that hold it."""
    error_m = offsets_m(served.position_deg, truth_deg)
    inside = [within(error_m / scale, served.ellipse) for scale in served.scales]
    return ProbeAnswers(error_m, served.covariance_m2, np.stack(inside, axis=-1), served.confidence)


def within(offset_m: F64, ellipse: F64) -> Bools:
    """Whether offsets [K,2] from the centres, east and north, lie in the ellipses [K,3]; not where one is NaN."""
    major_m, minor_m, bearing_deg = ellipse.T
    bearing = np.deg2rad(bearing_deg)
    east, north = offset_m.T
    along = east * np.sin(bearing) + north * np.cos(bearing)
    across = east * np.cos(bearing) - north * np.sin(bearing)
    return np.asarray((along / major_m) ** 2 + (across / minor_m) ** 2 <= 1.0, dtype=np.bool_)


def answers_to_json(answers: ServedAnswers) -> str:
    """The answers as JSON text, with null for NaN: for a job that prints them."""
    table = np.column_stack(
        [answers.position_deg, answers.covariance_m2.reshape(-1, 4), answers.ellipse, answers.confidence]
    )
    rows = [[value if np.isfinite(value) else None for value in row] for row in table.tolist()]
    return json.dumps({"scales": answers.scales, "answers": rows}, separators=(",", ":"), allow_nan=False)


def answers_from_json(text: str) -> ServedAnswers:
    """What `answers_to_json` wrote; raises `ValueError`."""
    try:
        document = json.loads(text)
        table = _table(document["answers"])
        scales = tuple(float(scale) for scale in document["scales"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"these are no answers: {error!r}") from error
    return ServedAnswers(table[:, :2], table[:, 2:6].reshape(-1, 2, 2), table[:, 6:9], table[:, 9], scales)


def _table(rows: Sequence[Sequence[Any]]) -> F64:
    table = np.array([[np.nan if value is None else float(value) for value in row] for row in rows], dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 10:  # noqa: PLR2004 - a table of ten columns, see `answers_to_json`
        raise ValueError("these are no answers: each has ten numbers")
    return table
