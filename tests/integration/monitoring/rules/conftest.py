"""What is played to the rules: series, a time, and the alerts that must fire then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

OF = 'namespace="ns",inferenceservice="loc"'
DAY = 24 * 60


def _requests(code: int, extra: str = 'model="m",version="1"') -> str:
    return f'transformer_requests_total{{{OF},{extra},code="{code}"}}'


def _series(name: str, labels: str = "") -> str:
    return f"{name}{{{OF}{',' if labels else ''}{labels}}}"


def _durations(fast: float, slow: float, minutes: int) -> dict[str, str]:
    """So many requests a minute within 500 ms, and above."""
    name = "transformer_request_duration_seconds"
    return {
        _series(f"{name}_bucket", 'le="0.5"'): f"0+{fast}x{minutes}",
        _series(f"{name}_bucket", 'le="+Inf"'): f"0+{fast + slow}x{minutes}",
        _series(f"{name}_count"): f"0+{fast + slow}x{minutes}",
        _requests(200): f"0+{fast + slow}x{minutes}",
    }


def _areas(before: str, now: str, count: float = 60) -> dict[str, str]:
    """Areas in one bucket for a day, then a quarter of an hour in another one."""
    name = "transformer_ellipse_area_square_meters"
    bounds, series = ("1e+07", "1e+08", "1e+09", "+Inf"), {}
    for le in bounds:
        early = count if bounds.index(le) >= bounds.index(before) else 0
        late = count if bounds.index(le) >= bounds.index(now) else 0
        series[_series(f"{name}_bucket", f'version="1",le="{le}"')] = f"0+{early}x{DAY} {early * DAY + late}+{late}x30"
    series[_series(f"{name}_count", 'version="1"')] = f"0+{count}x{DAY + 30}"
    return series


def _info(version: str, digest: str, *instances: str) -> dict[str, str]:
    labels = f'model="m",version="{version}",model_digest="{digest}"'
    return {_series("predictor_model_info", f'{labels},instance="{one}"'): "1x60" for one in instances}


def _arms(*names: str) -> dict[str, str]:
    return {_series("transformer_arm_percent", f'arm="{name}",revision="r-{name}"'): "50x60" for name in names}


PROBE_AWAY = {"ok": "0x20 1x400", "failed": "0+1x420"}


def _coverage(inside: float, positions: int, claimed: float = 0.95) -> dict[str, str]:
    labels = f'version="1",instance="w",confidence_level="{claimed}"'
    return {
        _series("heimdall_probe_coverage_ratio", labels): f"{inside}x60",
        _series("heimdall_probe_claimed_ratio", labels): f"{claimed}x60",
        _series("heimdall_probe_positions", 'version="1",instance="w"'): f"{positions}x60",
    }


@dataclass(frozen=True)
class Scenario:
    """What is played, and what fires at a time; every series has a value a minute."""

    name: str
    series: Mapping[str, str]
    minute: int
    firing: frozenset[tuple[str, str]] = frozenset()


def _fires(name: str, severity: str = "ticket", *others: tuple[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset({(name, severity), *others})


BURN, SLOW = "HeimdallErrorBudgetBurn", "HeimdallLatencyBudgetBurn"
GOOD = _durations(600, 0, 130)
SCENARIOS = (
    Scenario("a good day", GOOD, 120),
    Scenario("clients' mistakes are nobody's", GOOD | {_requests(400): "0+600x130", _requests(499): "0+99x130"}, 120),
    # 8 % fail: above 14.4 times 0.5 %, and 1 % an hour
    Scenario(
        "fast burn",
        GOOD | {_requests(503): "0+52x130"},
        70,
        _fires(BURN, "page", (BURN, "ticket"), ("HeimdallErrorRate", "ticket")),
    ),
    Scenario(
        "over within minutes",
        GOOD | {_requests(503): "0+52x70 3640+0x60"},
        105,
        _fires("HeimdallErrorRate", "ticket", (BURN, "ticket")),
    ),
    Scenario(
        "slow burn, 4 %",
        _durations(600, 0, 400) | {_requests(503): "0+25x400"},
        390,
        _fires(BURN, "page", (BURN, "ticket"), ("HeimdallErrorRate", "ticket")),
    ),
    Scenario("within the budget, 0.3 %", _durations(600, 0, 400) | {_requests(503): "0+2x400"}, 390),
    Scenario("one failure in a quiet night", _durations(0.2, 0, 400) | {_requests(503): "0x360 1x40"}, 370),
    Scenario("P95 far above", _durations(100, 500, 130), 70, _fires(SLOW, "page", (SLOW, "ticket"))),
    Scenario("P94 at 500 ms", _durations(940, 60, 400), 390, _fires(SLOW)),
    Scenario("P96 at 500 ms", _durations(960, 40, 400), 390),
    Scenario(
        "no predictor left",
        {
            _series("up", 'component="predictor",instance="a"'): "1x60 _x60",
            _series("up", 'component="transformer",instance="b"'): "1x120",
        },
        75,
        _fires("HeimdallDown", "page"),
    ),
    Scenario(
        "one of two predictors away",
        {
            _series("up", 'component="predictor",instance="a"'): "1x60 0x60",
            _series("up", 'component="predictor",instance="b"'): "1x120",
        },
        70,
        _fires("HeimdallTargetDown"),
    ),
    Scenario("no coverage watch left", {_series("up", 'component="coverage-watch",instance="a"'): "1x60 _x60"}, 75),
    Scenario("others' targets", {'up{job="node"}': "1x10 0x60"}, 60),
    Scenario(
        "a process that starts again and again",
        {_series("process_start_time_seconds", 'component="predictor"'): "1x10 2x5 3x5 4x20"},
        30,
        _fires("HeimdallRestarts"),
    ),
    Scenario("one restart", {_series("process_start_time_seconds", 'component="predictor"'): "1x10 2x30"}, 30),
    Scenario(
        "a full queue",
        {
            _series("predictor_requests_total", f'code="{code}"'): f"0+{each}x30"
            for code, each in ((200, 90), (503, 10))
        },
        20,
        _fires("HeimdallQueueFull"),
    ),
    Scenario(
        "no budget for retries",
        {_series("transformer_retries_denied_total", 'reason="budget"'): "0+1x30"},
        20,
        _fires("HeimdallRetriesDenied"),
    ),
    Scenario("no cluster, no watch", {_series("transformer_traffic_watch_state", 'state="off"'): "1x30"}, 30),
    Scenario(
        "a blind watch",
        {_series("transformer_traffic_watch_state", 'state="stale"'): "1x30"},
        30,
        _fires("HeimdallTrafficWatchBlind"),
    ),
    Scenario("a new listing", {_series("transformer_traffic_watch_state", 'state="stale"'): "0x20 1x3 0x20"}, 23),
    Scenario(
        "live samples never repeat",
        {
            _series("transformer_cache_events_total", 'event="miss"'): "0+60x130",
            _series("transformer_cache_up"): "1x130",
        },
        120,
    ),
    Scenario(
        "a failing cache",
        {
            _series("transformer_cache_events_total", f'event="{event}"'): f"0+{each}x30"
            for event, each in (("miss", 60), ("error", 3))
        },
        25,
        _fires("HeimdallCacheErrors"),
    ),
    Scenario(
        "a cache at rest",
        {
            _series("transformer_cache_up", 'instance="a"'): "0x30",
            _series("transformer_cache_up", 'instance="b"'): "1x30",
        },
        25,
        _fires("HeimdallCacheErrors"),
    ),
    Scenario(
        "a forgetful cache",
        {
            _series("transformer_cache_repeats_total", f'event="{event}"'): f"0+{each}x90"
            for event, each in (("hit", 7), ("miss", 3))
        },
        80,
        _fires("HeimdallCacheLosesAnswers"),
    ),
    Scenario(
        "a cache that never finds",
        {_series("transformer_cache_repeats_total", 'event="miss"'): "0+9x90"},
        80,
        _fires("HeimdallCacheLosesAnswers"),
    ),
    Scenario(
        "a good cache",
        {
            _series("transformer_cache_repeats_total", f'event="{event}"'): f"0+{each}x90"
            for event, each in (("hit", 9), ("miss", 1))
        },
        80,
    ),
    Scenario("too few repeats to say", {_series("transformer_cache_repeats_total", 'event="miss"'): "0+1x90"}, 80),
    Scenario(
        "nonsense", {_series("transformer_invalid_outputs_total"): "0+1x30"}, 20, _fires("HeimdallInvalidOutputs")
    ),
    Scenario("ellipses that hold what they promise", _coverage(0.93, 400), 30),
    Scenario("ellipses that are too small", _coverage(0.70, 400), 30, _fires("HeimdallCoverage")),
    Scenario("ellipses that are too large", _coverage(1.0, 2500, claimed=0.9), 30, _fires("HeimdallCoverage")),
    Scenario("too few positions to say", _coverage(0.8, 16), 30),
    Scenario(
        "a probe set without answers",
        {_series("heimdall_probe_runs_total", f'result="{result}"'): values for result, values in PROBE_AWAY.items()},
        410,
        _fires("HeimdallCoverageUnknown"),
    ),
    Scenario(
        "degraded answers",
        {
            _series("transformer_degraded_total", 'reason="clipped"'): "0+20x60",
            _series("transformer_ellipse_area_square_meters_count", 'version="1"'): "0+60x60",
        },
        50,
        _fires("HeimdallDegradedAnswers"),
    ),
    Scenario(
        "some degraded answers",
        {
            _series("transformer_degraded_total", 'reason="clipped"'): "0+6x60",
            _series("transformer_ellipse_area_square_meters_count", 'version="1"'): "0+60x60",
        },
        50,
    ),
    Scenario("ellipses grow", _areas("1e+07", "1e+09"), DAY + 20, _fires("HeimdallEllipseDrift")),
    Scenario("ellipses shrink", _areas("1e+09", "1e+07"), DAY + 20, _fires("HeimdallEllipseDrift")),
    Scenario("ellipses stay", _areas("1e+08", "1e+08"), DAY + 20),
    Scenario("too few ellipses to say", _areas("1e+07", "1e+09", 5), DAY + 20),
    Scenario("one version", _info("1", "d1", "a", "b") | _arms("stable"), 30),
    Scenario(
        "two versions without a canary",
        _info("1", "d1", "a") | _info("2", "d2", "b") | _arms("stable"),
        30,
        _fires("HeimdallVersionsDiffer"),
    ),
    Scenario("a canary", _info("1", "d1", "a") | _info("2", "d2", "b") | _arms("stable", "canary"), 30),
    Scenario("both served by all", _info("1", "d1", "a", "b") | _info("2", "d2", "a", "b"), 30),
    Scenario(
        "a version that was overwritten",
        _info("1", "d1", "a") | _info("1", "d2", "b"),
        30,
        _fires("HeimdallVersionOverwritten", "ticket", ("HeimdallVersionsDiffer", "ticket")),
    ),
    Scenario(
        "a version that does not load",
        {_series("predictor_loads_total", 'model="m",result="failed"'): "0x10 1x20"},
        15,
        _fires("HeimdallModelLoadFailed"),
    ),
)


@pytest.fixture(scope="session")
def scenarios() -> tuple[Scenario, ...]:
    """All of them, the good day first."""
    return SCENARIOS
