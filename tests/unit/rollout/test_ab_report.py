from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from rollout.ab_report import AbReport, differences, measured_arm
from rollout.measurements import Histogram, LiveDistributions

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.measurements import ArmCounts

BEGAN, ENDED = datetime(2026, 11, 23, 9, tzinfo=UTC), datetime(2026, 11, 23, 12, tzinfo=UTC)


def _live(counts: tuple[float, ...]) -> LiveDistributions:
    return LiveDistributions(Histogram((1e6, 1e9), counts), Histogram((0.5, 1.0), counts))


@pytest.fixture
def report(arm: Callable[..., ArmCounts]) -> AbReport:
    """An arm with much to tell, and one that nothing is known of."""
    known = measured_arm("stable", "loc-1", "3", percent=80.0, counts=arm(1_000, 10), live=_live((50.0, 50.0, 0.0)))
    return AbReport("radio/loc", BEGAN, ENDED, (known, measured_arm("canary", "loc-2", "4")), 0.25, None)


def test_the_table_has_a_column_for_each_arm(report: AbReport) -> None:
    """Every figure stands beside its interval, what is not known is a dash, and nobody is called better."""
    lines = report.as_text().splitlines()
    assert lines[0] == "radio/loc, 2026-11-23 09:00:00 to 2026-11-23 12:00:00 UTC"
    rows = {line[:26].strip(): line[26:].split("  ") for line in lines}
    assert "stable (3)" in lines[1]
    assert "canary (4)" in lines[1]
    texts = {line.split("  ")[0]: line for line in lines}
    assert "80 %" in texts["share"]
    assert texts["failed, share"].count("–") == 1
    assert "1 % (0." in texts["failed, share"]
    assert " ms (" in texts["latency, 95% quantile"]
    assert "1 km² (" in texts["ellipse area, median"]
    assert lines[-1] == "the distributions of ellipse areas differ by at most 25.0%"
    assert rows


def test_json_has_every_figure(report: AbReport) -> None:
    """Programs read the same figures; what is unknown or infinite is null."""

    def refuse(text: str) -> Any:  # noqa: ANN401 - the type of json's hook
        raise AssertionError(text)

    found = json.loads(report.as_json(), parse_constant=refuse)
    assert found["began_at"].startswith("2026-11-23 09:00:00")
    stable, canary = found["arms"]
    assert stable["figures"]["calls"] == 1_000.0
    assert stable["figures"]["error_ratio"]["value"] == 0.01
    assert stable["area_m2"]["value"] == 1e6
    assert (canary["figures"], canary["area_m2"], found["confidence_difference"]) == (None, None, None)


def test_differences() -> None:
    """Kolmogorov's distance of both figures; none without answers."""
    assert differences(_live((10.0, 0.0, 0.0)), _live((5.0, 5.0, 0.0))) == (0.5, 0.5)
    assert differences(_live((10.0, 0.0, 0.0)), _live((0.0, 0.0, 0.0))) == (None, None)
