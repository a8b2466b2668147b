from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from transformer.answer import Estimate
from transformer.answer_cache import CacheEvent
from transformer.localization import Localization
from transformer.metrics import Metrics
from transformer.observed import KEPT_DURATIONS, Observed

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from transformer.arms import Arm
    from transformer.described_model import DescribedModel


@pytest.fixture
def observed(registry: CollectorRegistry) -> Observed:
    """Nothing has been answered yet."""
    return Observed(Metrics(registry))


def test_answers(observed: Observed, registry: CollectorRegistry, described: DescribedModel, arm: Arm) -> None:
    """Each item counts once under its version: its confidence, the area of its 95 % ellipse and its reasons."""
    two = np.array([100.0, 200.0])
    estimate = Estimate(two, two, two, two / 2.0, two * 0.0, np.array([0.25, 0.5], np.float32), ((), ()))
    observed.answered(Localization(estimate, (("power",), ()), (False, True), arm, described))
    value = registry.get_sample_value
    assert value("transformer_confidence_sum", {"version": "3"}) == 0.75
    k = described.contract.ellipse_scale.k(0.95)
    area_m2 = math.pi * k**2 * (100.0 * 50.0 + 200.0 * 100.0)
    assert value("transformer_ellipse_area_square_meters_sum", {"version": "3"}) == pytest.approx(area_m2)
    assert value("transformer_degraded_total", {"reason": "power"}) == 1


def test_a_model_without_confidence(
    observed: Observed, registry: CollectorRegistry, described: DescribedModel, arm: Arm
) -> None:
    """What such a model's answers say of confidence is nothing that the model said, and is not counted."""
    contract = replace(described.contract, outputs=replace(described.contract.outputs, confidence=None))
    one = np.array([100.0])
    estimate = Estimate(one, one, one, one, one * 0.0, np.ones(1, np.float32), ((),))
    observed.answered(Localization(estimate, ((),), (False,), arm, replace(described, contract=contract)))
    value = registry.get_sample_value
    assert not value("transformer_confidence_count", {"version": "3"})
    assert value("transformer_ellipse_area_square_meters_count", {"version": "3"}) == 1


def test_requests(observed: Observed, registry: CollectorRegistry) -> None:
    """Errors are those of the service: a client's mistake is a request like any other."""
    for status in (200, 400, 499, 500, 503):
        observed.request("localization", "3", status, 0.01)
    assert (observed.requests, observed.errors) == (5, 2)
    labels = {"model": "localization", "version": "3", "code": "503"}
    assert registry.get_sample_value("transformer_requests_total", labels) == 1


def test_percentiles(observed: Observed) -> None:
    """A percentile is a duration that took place (nearest rank), of the last requests alone."""
    assert observed.percentiles_s(0.5) == [None]
    for _ in range(KEPT_DURATIONS):
        observed.request("m", "", 200, 99.0)
    for index in range(KEPT_DURATIONS):
        observed.request("m", "", 200, float(index + 1))
    assert observed.percentiles_s(0.0001, 0.5, 0.95, 1.0) == [1.0, 500.0, 950.0, 1000.0]


def test_hit_rate(observed: Observed) -> None:
    """Hits among what was looked up: a bypass is no lookup, and an error is counted beside its miss."""
    assert observed.hit_rate is None
    for event, items in zip(CacheEvent, (6, 3, 1, 50, 70), strict=True):
        observed.cache_event(event, items)
    assert observed.hit_rate == 0.6


def test_in_flight(observed: Observed, registry: CollectorRegistry) -> None:
    """A request counts as in flight for as long as it is."""
    with observed.in_flight():
        assert registry.get_sample_value("transformer_requests_in_flight") == 1
    assert registry.get_sample_value("transformer_requests_in_flight") == 0
