"""From a load of real requests to the verdict: two arms, the transformer's metrics, a real Prometheus, `assess`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from rollout.assess import assess
from rollout.measurements import Look, Measurements
from rollout.prometheus import PrometheusEvidence
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.simulate import Captures
    from rollout.release import Release

REQUESTS = 1_200
_SETTLED_S = 40.0
POLICY = {
    "unacceptable_error_increase": 0.06,
    "latency_quantile": 0.5,
    "unacceptable_latency_ratio": 3.0,
    "minimum_step_s": 0.0,
    "minimum_calls": 100,
}
"""What some hundred calls can tell apart on a machine that does other things as well: a median, and wide margins."""


def _settle(release: Any, body: Any, arms: int) -> None:  # noqa: ANN401 - of the arms' tests
    """Requests until the durations of so many arms are counted: a process's first seconds are not."""
    deadline_s = time.monotonic() + _SETTLED_S
    name = "transformer_upstream_settled_duration_seconds_count{"
    while release.metrics().count(name) < arms:
        assert time.monotonic() < deadline_s, "no durations are counted"
        release.clients(lambda number: body if number < 8 else None)
        time.sleep(0.3)


def _looked(server: Any, release: Release) -> Look:  # noqa: ANN401 - a Prometheus
    server.wait_for_scrape()
    with PrometheusEvidence(server.url, 'job="transformer"') as evidence:
        return evidence.look(release, time.time() - release.step_began_at.timestamp())


def _reason(look: Look, release: Release, signal: str) -> Any:  # noqa: ANN401 - a reason
    verdict = assess(Measurements((look,)), release.policy)
    return next(reason for reason in verdict.reasons if reason.signal == signal)


def test_a_good_version(
    two_arms: Callable[[str], Any], prometheus: Callable[..., Any], begun: Callable[..., Release],
    drawn: Captures, body_of: Callable[..., Any],
) -> None:  # fmt: skip
    """Each of the load's requests is counted once, for the arm that answered it, and nothing is held against it."""
    body = body_of(drawn.iq[:1], cache=False)
    with two_arms("better") as arms:
        arms.show(50)
        _settle(arms, body, 2)
        server = prometheus(arms.transformer.http_port)
        release = begun(**POLICY)
        server.wait_for_scrape()
        told = arms.clients(lambda number: body if number < REQUESTS else None)
        look = _looked(server, release)
        assert told.failures == []
        assert look.stable is not None
        assert look.canary is not None
        for name, arm in (("stable", look.stable), ("canary", look.canary)):
            assert (arm.calls.total, arm.calls.succeeded, arm.latency_s.total) == (told.arms[name],) * 3
        assert _reason(look, release, "errors").outcome is Outcome.PASS
        assert _reason(look, release, "latency").outcome is not Outcome.FAIL
        with PrometheusEvidence(server.url) as evidence:
            live = evidence.live(release)
        assert live is not None
        assert [one.area_m2.total for one in live] == [told.arms["stable"], told.arms["canary"]]
        assert [one.confidence.total for one in live] == [told.arms["stable"], told.arms["canary"]]


@pytest.mark.parametrize(
    "case", [("slow", 50, 50, "latency"), ("crashing", 5, 600, "errors")], ids=["slow", "crashing"]
)
def test_a_bad_version(
    case: tuple[str, int, int, str],
    two_arms: Callable[[str], Any], prometheus: Callable[..., Any], begun: Callable[..., Release],
    drawn: Captures, body_of: Callable[..., Any],
) -> None:  # fmt: skip
    """The slow one is caught by its durations, the crashing one by its calls, while no client sees a failure."""
    variant, percent, requests, signal = case
    body = body_of(drawn.iq[:1], cache=False)
    with two_arms(variant) as arms:
        arms.show(percent)
        _settle(arms, body, 1 if variant == "crashing" else 2)
        server = prometheus(arms.transformer.http_port)
        release = begun(**POLICY)
        server.wait_for_scrape()
        told = arms.clients(lambda number: body if number < requests else None)
        look = _looked(server, release)
        assert told.failures == []
        verdict = assess(Measurements((look,)), release.policy)
        assert verdict.outcome is Outcome.FAIL, [reason.sentence for reason in verdict.reasons]
        assert verdict.reasons[0].signal == signal
