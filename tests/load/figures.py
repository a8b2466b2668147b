"""Figures over many requests: percentiles, failures, hits.

What belongs here: pure functions of records. What does not: reading them, and showing the figures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run; latencies in milliseconds from the intended moment, those of failures included.

    Attributes:
        requests: How many were sent.
        failed: How many were not answered with 200.
        refused: How many of those were told 503 and when to come again.
        failures: Status and the beginning of the message → how often.
        rate_hz: Answers a second, from the first intended moment to the last answer.
        hit_rate: Share of all answers that came from the cache; live samples never can.
        hit_rate_of_repeats: The same of requests whose capture had been answered, in the same form, before they left.
        sender_lag_ms: The 99th percentile of how late the generator itself was; it is part of the latencies.
    """

    requests: int
    failed: int
    refused: int
    failures: Mapping[str, int]
    rate_hz: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    hit_rate: float
    hit_rate_of_repeats: float
    sender_lag_ms: float


def figures(records: Sequence[Record]) -> Figures:
    """The figures of at least one record, in the order of their intended moments."""
    latency_ms = np.array([one.latency_s for one in records]) * 1e3
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99])
    lag_ms = np.percentile([(one.sent_s - one.intended_s) * 1e3 for one in records], 99)
    failures = Counter(f"{one.status} {one.error}".strip() for one in records if not one.ok)
    answered = [one for one in records if one.ok]
    repeats = repeated(answered)
    took_s = max(one.done_s for one in records) - records[0].intended_s
    return Figures(
        requests=len(records),
        failed=len(records) - len(answered),
        refused=sum(one.status == 503 and one.retry_after for one in records),
        failures=dict(failures.most_common(10)),
        rate_hz=len(answered) / max(took_s, 1e-9),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        max_ms=float(latency_ms.max()),
        hit_rate=_share_cached(answered),
        hit_rate_of_repeats=_share_cached(repeats),
        sender_lag_ms=float(lag_ms),
    )


def by_form(records: Sequence[Record]) -> dict[str, Figures]:
    """The figures of each form."""
    forms = sorted({one.form for one in records})
    return {form: figures([one for one in records if one.form == form]) for form in forms}


def repeated(answered: Sequence[Record]) -> list[Record]:
    """Those whose capture had been answered in the same form before they were sent."""
    first_done_s: dict[tuple[str, int], float] = {}
    for one in answered:
        key = (one.form, one.capture)
        first_done_s[key] = min(one.done_s, first_done_s.get(key, np.inf))
    return [one for one in answered if first_done_s[one.form, one.capture] < one.sent_s]


def wrong(answered: Sequence[Record]) -> int:
    """How many answers differ from the first of the same capture, form and model: must be none."""
    first: dict[tuple[str, int, str], str] = {}
    keyed = [((one.form, one.capture, one.model), one.digest) for one in answered if one.digest]
    return sum(first.setdefault(key, digest) != digest for key, digest in keyed)


def _share_cached(answered: Sequence[Record]) -> float:
    return sum(one.cached for one in answered) / len(answered) if answered else float("nan")
