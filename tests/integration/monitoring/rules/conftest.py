"""What is played to the rules: series, a time, and the alerts that must fire then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OF = 'namespace="ns",inferenceservice="loc"'
BEFORE = 120
"""Minutes of the day before, for drift: the rest of the day may be without data."""


def _requests(code: int, extra: str = 'model="m",version="1"') -> str:
    return f'transformer_requests_total{{{OF},{extra},code="{code}"}}'


def _series(name: str, labels: str = "") -> str:
    return f"{name}{{{OF}{',' if labels else ''}{labels}}}"


def _repeats(**each: int) -> dict[str, str]:
    """So many repeats a minute of each event, for 90 minutes."""
    return {
        _series("transformer_cache_repeats_total", f'event="{event}"'): f"0+{count}x90" for event, count in each.items()
    }


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
    """Areas in one bucket for a while, then half an hour in another one."""
    name = "transformer_ellipse_area_square_meters"
    bounds, series = ("1e+07", "1e+08", "1e+09", "+Inf"), {}
    for le in bounds:
        early = count if bounds.index(le) >= bounds.index(before) else 0
        late = count if bounds.index(le) >= bounds.index(now) else 0
        series[_series(f"{name}_bucket", f'version="1",le="{le}"')] = (
            f"0+{early}x{BEFORE} {early * BEFORE + late}+{late}x30"
        )
    series[_series(f"{name}_count", 'version="1"')] = f"0+{count}x{BEFORE + 30}"
    return series


def _info(version: str, digest: str, *instances: str) -> dict[str, str]:
    labels = f'model="m",version="{version}",model_digest="{digest}"'
    return {_series("predictor_model_info", f'{labels},instance="{one}"'): "1x60" for one in instances}


def _arms(*names: str) -> dict[str, str]:
    return {_series("transformer_arm_percent", f'arm="{name}",revision="r-{name}"'): "50x60" for name in names}


SELDOM = {"miss": 993, "error": 7}


def _answers(name: str, label: str, each: Mapping[str, int]) -> dict[str, str]:
    """Counters that grow by so much a minute, by the value of a label."""
    return {_series(name, f'{label}="{value}"'): f"0+{count}x30" for value, count in each.items()}


WATCH = 'component="coverage-watch",instance="a"'
PROBE_AWAY = {"ok": "0x20 1x400", "failed": "0+1x420"}


def _coverage(inside: float, positions: int, claimed: float = 0.95) -> dict[str, str]:
    labels = f'version="1",instance="w",confidence_level="{claimed}"'
    return {
        _series("heimdall_probe_coverage_ratio", labels): f"{inside}x60",
        _series("heimdall_probe_claimed_ratio", labels): f"{claimed}x60",
        _series("heimdall_probe_positions", 'version="1",instance="w"'): f"{positions}x60",
    }


def _calls(timeouts: float, slow: float, each: float = 1000.0) -> dict[str, str]:
    """Calls of an arm, so many a minute: those that timed out, and those above 100 ms, which they may be among."""
    arm = 'arm="canary",revision="r2"'
    name = "transformer_upstream_duration_seconds"
    return {
        _series("transformer_upstream_requests_total", f'{arm},code="200"'): _counter((30, each - timeouts)),
        _series("transformer_upstream_requests_total", f'{arm},code="timeout"'): _counter((30, timeouts)),
        _series(f"{name}_bucket", f'{arm},le="0.1"'): _counter((30, each - slow)),
        _series(f"{name}_count", arm): _counter((30, each)),
    }


@dataclass(frozen=True)
class Scenario:
    """What is played, and what fires at a time; every series has a value a minute.

    Attributes:
        firing: Alerts with their severities; behind an "@" the label `burn_rate`, where there is one.
    """

    name: str
    series: Mapping[str, str]
    minute: int
    firing: frozenset[tuple[str, str]] = frozenset()


def _fires(name: str, severity: str = "ticket", *others: tuple[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset({(name, severity), *others})


BURN, SLOW, RATE = "HeimdallErrorBudgetBurn", "HeimdallLatencyBudgetBurn", "HeimdallErrorRate"
BUDGET = {BURN: 0.005, SLOW: 0.05}
SEVERITY = {14.4: "page@14.4", 6.0: "page@6", 1.0: "ticket@1"}
"""Burn rate → severity and the label `burn_rate`."""

TICKET, BOTH = (1.0,), (6.0, 1.0)
UNSTEADY = (
    ("14.4, not for an hour yet", ((354, 0.0), (36, 18.0)), TICKET),
    ("14.4, over for five minutes", ((376, 19.0), (14, 10.8)), BOTH),
    ("6, not for six hours yet", ((174, 0.0), (216, 7.5)), TICKET),
    ("6, over for half an hour", ((358, 10.0), (32, 4.5)), TICKET),
    ("1, not for three days yet", ((480, 0.0), (360, 1.9)), ()),
    ("1, over for six hours", ((700, 1.9), (365, 0.75)), ()),
)
"""What burns at which rate for how many minutes, and the rates that are told of at the end."""


THIN = {0.42: (), 0.9: (14.4, 6.0), 5.1: (14.4, 6.0), 6.9: (14.4, 6.0, 1.0)}
"""So many requests a minute, all of them bad, for seven hours, which are a tenth of three days: what is told of."""


def _counter(*phases: tuple[int, float]) -> str:
    """A counter that grows by so much a minute, for so many minutes each."""
    words, total = ["0x0"], 0.0
    for minutes, each in phases:
        words.append(f"{total + each:.6f}+{each:.6f}x{minutes - 1}")
        total += minutes * each
    return " ".join(words)


def _burning(alert: str, *phases: tuple[int, float], each: float = 1000.0) -> dict[str, str]:
    """Requests of which a share of so many budgets fails, or is slow."""
    bad = [(minutes, each * burn * BUDGET[alert]) for minutes, burn in phases]
    good = [(minutes, abs(round(each - one, 6))) for minutes, one in bad]
    if alert == BURN:
        return {_requests(200): _counter(*good), _requests(503): _counter(*bad)}
    whole = _counter(*((minutes, each) for minutes, _ in phases))
    name = "transformer_request_duration_seconds"
    return {
        _series(f"{name}_bucket", 'le="0.5"'): _counter(*good),
        _series(f"{name}_count"): whole,
        _requests(200): whole,
    }


def _told(alert: str, burns: Iterable[float], *, rate: bool) -> frozenset[tuple[str, str]]:
    """What fires: the alert at these rates, and the ticket for 1 % within an hour."""
    told = {(alert, SEVERITY[burn]) for burn in burns}
    return frozenset(told | ({(RATE, "ticket")} if rate and alert == BURN else set()))


def _budgets(alert: str) -> Iterator[Scenario]:
    """Each threshold from both sides, each window without the other, and traffic that is too thin."""
    rates = {14.4, 6.0, 1.0} | ({0.01 / BUDGET[BURN]} if alert == BURN else set())
    for burn in sorted(edge * side for edge in rates for side in (0.9, 1.1)):
        firing = _told(alert, [one for one in SEVERITY if one < burn], rate=burn * BUDGET[BURN] > 0.01)
        yield Scenario(f"{alert} at {burn:g}", _burning(alert, (430, burn)), 420, firing)
    for name, phases, burns in UNSTEADY:
        last = phases[-1][1] * BUDGET[BURN]
        minutes = sum(minutes for minutes, _ in phases)
        yield Scenario(f"{alert} at {name}", _burning(alert, *phases), minutes, _told(alert, burns, rate=last > 0.01))
    for each, told in THIN.items():
        series = _burning(alert, (430, 1.0 / BUDGET[alert]), each=each)
        yield Scenario(f"{alert}, {each * 60:g} an hour", series, 420, _told(alert, told, rate=bool(told)))


SILENT = "HeimdallPredictorSilent"
PREDICTOR_SILENT = (
    Scenario("a predictor that hangs", _calls(1000, 1000), 20, _fires(SILENT, "page", (SILENT, "ticket"))),
    Scenario("most calls time out", _calls(510, 510), 20, _fires(SILENT, "page", (SILENT, "ticket"))),
    Scenario("less than half of the calls time out", _calls(490, 1000), 20, _fires(SILENT)),
    Scenario("some calls time out", _calls(12, 12), 20, _fires(SILENT)),
    Scenario("few calls time out", _calls(9, 1000), 20),
    Scenario("clients that allow next to no time", _calls(1000, 9), 20),
    Scenario("a predictor that is slow but answers", _calls(0, 1000), 20),
    Scenario("timeouts in a quiet night", _calls(0.4, 0.4, each=0.4), 20),
    Scenario("a predictor that has begun to hang", _calls(1000, 1000), 4),
)

BUDGETS = (*_budgets(BURN), *_budgets(SLOW))

GOOD = _durations(600, 0, 130)
SCENARIOS = (
    Scenario("a good day", GOOD, 120),
    Scenario("clients' mistakes are nobody's", GOOD | {_requests(400): "0+600x130", _requests(499): "0+99x130"}, 120),
    Scenario("one failure in a quiet night", _durations(0.2, 0, 400) | {_requests(503): "0x360 1x40"}, 370),
    *BUDGETS,
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
    Scenario("a new coverage watch takes its time", {_series("up", WATCH): "1x60 _x60"}, 75),
    Scenario("no coverage watch left", {_series("up", WATCH): "1x60 _x60"}, 90, _fires("HeimdallCoverageUnknown")),
    Scenario("a coverage watch of long ago", {_series("up", WATCH): "1x60 _x1500"}, 1530),
    Scenario(
        "another coverage watch in its place",
        {_series("up", WATCH): "1x60 _x60", _series("up", 'component="coverage-watch",instance="b"'): "_x60 1x60"},
        90,
    ),
    Scenario(
        "a coverage watch that cannot be scraped",
        {_series("up", WATCH): "1x60 0x60"},
        90,
        _fires("HeimdallCoverageUnknown", "ticket", ("HeimdallTargetDown", "ticket")),
    ),
    Scenario("others' targets", {'up{job="node"}': "1x10 0x60"}, 60),
    Scenario(
        "a process that starts again and again",
        {_series("process_start_time_seconds", 'component="predictor"'): "1x10 2x5 3x5 4x20"},
        30,
        _fires("HeimdallRestarts"),
    ),
    Scenario("two restarts", {_series("process_start_time_seconds", 'component="predictor"'): "1x10 2x5 3x25"}, 30),
    Scenario(
        "a full queue",
        _answers("predictor_requests_total", "code", {"200": 985, "503": 15}),
        20,
        _fires("HeimdallQueueFull"),
    ),
    Scenario("a queue that is seldom full", _answers("predictor_requests_total", "code", {"200": 993, "503": 7}), 20),
    Scenario("a cache that seldom fails", _answers("transformer_cache_events_total", "event", SELDOM), 25),
    Scenario("a cache at rest now and then", {_series("transformer_cache_up"): " ".join(["1 1 1 0 0"] * 8)}, 30),
    Scenario(
        "no budget for retries",
        {_series("transformer_retries_denied_total", 'reason="budget"'): "0+1x30"},
        20,
        _fires("HeimdallRetriesDenied"),
    ),
    *PREDICTOR_SILENT,
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
        _answers("transformer_cache_events_total", "event", {"miss": 200, "error": 3}),
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
        _repeats(hit=7, miss=3),
        80,
        _fires("HeimdallCacheLosesAnswers"),
    ),
    Scenario(
        "a cache that never finds",
        _repeats(miss=9),
        80,
        _fires("HeimdallCacheLosesAnswers"),
    ),
    Scenario(
        "a good cache",
        _repeats(hit=9, miss=1),
        80,
    ),
    Scenario("too few repeats to say", _repeats(miss=1), 80),
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
    Scenario("ellipses grow", _areas("1e+07", "1e+09"), BEFORE + 20, _fires("HeimdallEllipseDrift")),
    Scenario("ellipses shrink", _areas("1e+09", "1e+07"), BEFORE + 20, _fires("HeimdallEllipseDrift")),
    Scenario("ellipses stay", _areas("1e+08", "1e+08"), BEFORE + 20),
    Scenario("too few ellipses to say", _areas("1e+07", "1e+09", 5), BEFORE + 20),
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
