from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from transformer.traffic import parse_traffic, sole_arm, tagged

if TYPE_CHECKING:
    from transformer.arms import Arms

URL = "http://loc-predictor.radio"
LATEST, PREV = "http://latest-loc-predictor.radio", "http://prev-loc-predictor.radio"

Shown = list[tuple[str, int, str]]


def shown(arms: Arms) -> Shown:
    """Host, percent and the number of the revision, stable first."""
    return [(arm.base_url, arm.percent, arm.revision[-1:]) for arm in arms.candidates]


# What must be routed at each step of the real rollout in rollout.json; written down from what the cluster was told.
STEPS: list[tuple[str, str, Shown]] = [
    ("4869", "created", [(URL, 100, "")]),
    ("4922", "no revision yet", [(URL, 100, "")]),
    ("4980", "revision 1 is ready", [(URL, 100, "")]),
    ("4986", "its route is being built", [(URL, 100, "1")]),
    ("4992", "first deployment", [(URL, 100, "1")]),
    ("5056", "10 % are shown, but revision 2 is not ready", [(PREV, 100, "1")]),
    ("5116", "revision 2 is ready, its host is not", [(PREV, 100, "1")]),
    ("5120", "the canary is live", [(PREV, 90, "1"), (LATEST, 10, "2")]),
    ("5178", "withdrawn: at once, although the route is being rebuilt", [(PREV, 100, "1"), (LATEST, 0, "2")]),
    ("5182", "at 0 % it is still there", [(PREV, 100, "1"), (LATEST, 0, "2")]),
    ("5243", "revision 3 is not ready", [(PREV, 100, "1"), (LATEST, 0, "2")]),
    ("5283", "revision 3 behind a host that is being moved", [(PREV, 100, "1")]),
    ("5291", "revision 3 at 0 %", [(PREV, 100, "1"), (LATEST, 0, "3")]),
    ("5328", "the field is removed", [(PREV, 100, "1"), (LATEST, 0, "3")]),
    ("5341", "revision 3 has everything", [(URL, 100, "3")]),
    ("5419", "30 % are shown, revision 4 is not ready, prev is being built", [(URL, 100, "3")]),
    ("5424", "prev is there", [(PREV, 100, "3")]),
    ("5457", "revision 4 is ready, but not in traffic", [(PREV, 100, "3")]),
    ("5461", "in traffic, but not at the ingress", [(PREV, 100, "3")]),
    ("5465", "the canary is live", [(PREV, 70, "3"), (LATEST, 30, "4")]),
    ("5535", "promoted: the ordinary host may still split", [(LATEST, 100, "4")]),
    ("5542", "promoted", [(URL, 100, "4")]),
    ("5630", "a canary without tag routing is not ready", [(URL, 100, "4")]),
    ("5641", "the same, and prev is there", [(PREV, 100, "4")]),
    ("5677", "the canary is ready", [(URL, 100, "")]),
    ("5681", "Knative splits", [(URL, 100, "")]),
]


@pytest.fixture
def live(rollout: list[dict[str, Any]]) -> dict[str, Any]:
    """The InferenceService with a live canary of 10 %."""
    return copy.deepcopy(next(item for item in rollout if item["metadata"]["resourceVersion"] == "5120"))


def targets(inference_service: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of `traffic[]`, to be changed."""
    entries: list[dict[str, Any]] = inference_service["status"]["components"]["predictor"]["traffic"]
    return entries


def test_real_rollout(rollout: list[dict[str, Any]]) -> None:
    """Every status that a real rollout went through is read as what is really routed at that moment."""
    arms = sole_arm(URL)
    read = []
    for item, (_, what, _) in zip(rollout, STEPS, strict=True):
        arms = parse_traffic(item, URL, arms).arms
        read.append((item["metadata"]["resourceVersion"], what, shown(arms)))
    assert read == STEPS


@pytest.mark.parametrize("version", [step[0] for step in STEPS])
def test_restart_in_the_middle(rollout: list[dict[str, Any]], version: str) -> None:
    """A transformer that starts at any step relies on no tag host that the ingress may not know yet."""
    item = next(item for item in rollout if item["metadata"]["resourceVersion"] == version)
    ready = any(condition["status"] == "True" for condition in item["status"].get("conditions", ()))
    arms = parse_traffic(item, URL).arms
    assert ready or shown(arms) == [(URL, 100, arms.stable.revision[-1:])]


def test_warning_without_tags(rollout: list[dict[str, Any]]) -> None:
    """The operator is told which annotation is missing, and only while it matters."""
    warnings = [parse_traffic(item, URL).warning for item in rollout]
    assert [warning is not None for warning in warnings] == [step[0] in {"5677", "5681"} for step in STEPS]
    assert "enable-tag-routing" in str(warnings[-1])


def test_arms_are_named(live: dict[str, Any]) -> None:
    """The last revision that reached 100 % is stable, the one on trial is the canary."""
    arms = parse_traffic(live, URL).arms
    assert arms.canary is not None
    assert (arms.stable.name, arms.canary.name) == ("stable", "canary")


def test_a_newer_ready_revision_takes_the_canary_away(live: dict[str, Any]) -> None:
    """Between a newer revision's readiness and its traffic the latest host leads to either; nothing is sent there."""
    live["status"]["components"]["predictor"]["latestReadyRevision"] = "loc-predictor-00003"
    assert shown(parse_traffic(live, URL).arms) == [(PREV, 100, "1")]


def test_a_newer_unready_revision_does_not(live: dict[str, Any]) -> None:
    """A newer revision that never becomes ready takes nothing from the canary that Knative still routes to."""
    live["status"]["components"]["predictor"]["latestCreatedRevision"] = "loc-predictor-00003"
    assert shown(parse_traffic(live, URL).arms) == [(PREV, 90, "1"), (LATEST, 10, "2")]


@pytest.mark.parametrize("change", ["third", "both latest", "lost percent"])
def test_foreign_splits_are_left_to_knative(live: dict[str, Any], change: str) -> None:
    """A split that KServe would not write is not guessed at."""
    if change == "third":
        targets(live).append(targets(live)[1] | {"revisionName": "loc-predictor-00007", "percent": 0})
    elif change == "both latest":
        targets(live)[1]["latestRevision"] = True
    else:
        targets(live)[0]["percent"] = 9
    routing = parse_traffic(live, URL)
    assert routing.arms == sole_arm(URL)
    assert routing.warning is not None


def test_nothing_is_known_while_the_route_is_built(live: dict[str, Any]) -> None:
    """A canary behind hosts that the ingress does not know yet is not drawn, nor is a share given to it blindly."""
    live["status"]["conditions"] = []
    assert shown(parse_traffic(live, URL).arms) == [(URL, 100, "1")]


def test_first_deployment_without_tags(live: dict[str, Any]) -> None:
    """A single revision needs no tag, whether its route is ready or not."""
    entry = targets(live)[1] | {"percent": 100, "latestRevision": True}
    del entry["tag"]
    targets(live)[:] = [entry]
    assert shown(parse_traffic(live, URL).arms) == [(URL, 100, "1")]
    live["status"]["conditions"] = []
    assert shown(parse_traffic(live, URL).arms) == [(URL, 100, "1")]


def test_missing_zero(live: dict[str, Any]) -> None:
    """A percentage that the API server leaves out is zero."""
    del targets(live)[0]["percent"]
    targets(live)[1]["percent"] = 100
    assert shown(parse_traffic(live, URL).arms) == [(PREV, 100, "1"), (LATEST, 0, "2")]


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://loc-predictor.ns", "http://latest-loc-predictor.ns"),
        ("https://loc-predictor.ns.svc.cluster.local:8443", "https://latest-loc-predictor.ns.svc.cluster.local:8443"),
    ],
)
def test_tag_hosts(base_url: str, expected: str) -> None:
    """A tag's host is the ordinary host with the tag in front, in whatever form KServe hands it over."""
    assert tagged(base_url, "latest") == expected
