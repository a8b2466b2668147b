"""What was answered, for people and for Prometheus: counts, durations and the live distribution of ellipses.

What belongs here: taking note of answers, and the few figures of the model's page that need more than a counter. What
does not: calls of the predictor (`upstream` counts those).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING

from transformer.answer_cache import CacheEvent

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from transformer.localization import Localization
    from transformer.metrics import Metrics

CONFIDENCE_LEVEL = 0.95
"""The level of the ellipses whose areas are counted, whatever the client asked for, so that versions compare."""

KEPT_DURATIONS = 1000
"""Durations that the percentiles of the model's page are taken from: about the last ten seconds at full load."""


class Observed:
    """Takes note of what clients are told.

    Args:
        metrics: Shown to Prometheus.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._durations_s: deque[float] = deque(maxlen=KEPT_DURATIONS)
        self._cache_items: Counter[CacheEvent] = Counter()
        self.requests = 0
        self.errors = 0

    def in_flight(self) -> AbstractContextManager[None]:
        """One request is being answered for as long as this lasts."""
        return self._metrics.in_flight()

    def answered(self, localization: Localization) -> None:
        """One answer: its items' ellipses and confidences, and why some deserve less trust."""
        version, estimate = localization.model.version, localization.estimate
        self._metrics.serves(localization.arm, localization.model)
        contract = localization.model.contract
        k = contract.ellipse_scale.k(CONFIDENCE_LEVEL)
        areas_m2 = math.pi * k**2 * estimate.sigma_x_m * estimate.sigma_y_m
        own = contract.outputs.confidence is not None  # else the estimate says 1, which no model has said
        for confidence, area_m2 in zip(estimate.confidence.tolist(), areas_m2.tolist(), strict=True):
            self._metrics.estimate(version, confidence if own else None, area_m2)
        for reasons in localization.degraded:
            self._metrics.degraded(reasons)

    def request(self, model: str, version: str, status: int, duration_s: float) -> None:
        """One request of a client, by whatever protocol; names are empty where no answer has vouched for them."""
        self._metrics.request_ended(model, version, status, duration_s)
        self.requests += 1
        self.errors += status >= 500  # noqa: PLR2004 - the class of HTTP's own numbers
        self._durations_s.append(duration_s)

    def cache_event(self, event: CacheEvent, items: int) -> None:
        """What the cache did with some items."""
        self._metrics.cache_event(event.value, items)
        self._cache_items[event] += items

    @property
    def hit_rate(self) -> float | None:
        """Hits among the items that were looked up; None before there were any."""
        looked = sum(self._cache_items[event] for event in (CacheEvent.HIT, CacheEvent.MISS, CacheEvent.COALESCED))
        return self._cache_items[CacheEvent.HIT] / looked if looked else None

    def percentiles_s(self, *shares: float) -> list[float | None]:
        """Durations below which these shares of the last requests stayed; None before there were any."""
        ordered = sorted(self._durations_s)
        if not ordered:
            return [None] * len(shares)
        return [ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] for share in shares]
