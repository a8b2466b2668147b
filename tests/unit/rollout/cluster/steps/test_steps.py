"""Whole releases on a cluster with KServe's rules, and a clock that only goes on when somebody sleeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rollout.errors import RefusedError, RejectedError
from rollout.release import Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World

    from rollout.measurements import Look, ProbeResults
    from rollout.release import ModelVersion, Release

GOOD, NEXT = "s3://models/good", "s3://models/next"


def test_a_good_version_goes_to_everything(world: World, release: Callable[..., Release]) -> None:
    """5, 25, 50, 100 %, the alias moved, and every step an event and a tag."""
    ended = world.steps().run(release())
    assert (ended.outcome, ended.release.stage) == (Outcome.PASS, Stage.PROMOTED)
    assert [one.get(NEXT, 0) for one in world.cluster.seen] == [0, 5, 25, 50, 100]
    assert world.registry.aliases["champion"] == "2"
    assert world.registry.tags["stage"] == "promoted at 100 %"
    assert [step.percent for step in ended.release.steps] == [5, 25, 50]
    assert all(step.canary_calls >= 100 for step in ended.release.steps)
    assert world.resumed() == ended.release
    assert [one.stage for one in world.record.history()] == ["promoted"]
    assert world.record.rejected() == {}
    told = [one for path, one in world.cluster.objects.items() if "/events/" in path]
    assert {one["reason"] for one in told} == {"Canary", "Promoting", "Promoted"}
    assert all(one["involvedObject"]["name"] == "loc" for one in told)
    assert world.evidence.probed == 1


@pytest.mark.parametrize("outdated", [0, 1, 3])
@pytest.mark.parametrize(
    ("change", "reason"),
    [({"failing": 0.2}, "errors"), ({"slower": 3.0}, "latency")],
)
def test_a_bad_version_goes_back(
    world: World, release: Callable[..., Release], change: dict[str, float], reason: str, outdated: int
) -> None:
    """Its requests are taken away first, and at no moment does it get more than its share.

    Not even while Knative says that it has seen the good template and still names the bad one as its newest revision.
    """
    world.cluster.outdated = outdated
    world.evidence = replace(world.evidence, **change)
    ended = world.steps().run(release())
    assert (ended.outcome, ended.release.stage) == (Outcome.PASS, Stage.ROLLED_BACK)
    assert ended.release.reason.startswith(reason)
    assert [one.get(NEXT, 0) for one in world.cluster.seen] == [0, 5, 0]
    assert world.cluster.seen[-1] == {GOOD: 100}
    predictor = world.cluster.objects[
        "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices/loc"
    ]["spec"]["predictor"]  # fmt: skip
    assert predictor["model"]["storageUri"] == GOOD
    assert predictor["canaryTrafficPercent"] == 100
    assert list(world.record.rejected()) == [ended.release.challenger.model_digest]
    assert world.registry.aliases["champion"] == "1"
    assert world.registry.tags["rejected"] == ended.release.reason


def test_a_dishonest_model_goes_back(
    world: World, release: Callable[..., Release], probe: Callable[..., ProbeResults]
) -> None:
    """The probe set decides, although errors and latency are fine."""
    world.evidence.results = probe(500, inflation=0.25)
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.ROLLED_BACK
    assert "coverage" in ended.release.reason


def test_a_crashing_version_goes_back(world: World, release: Callable[..., Release]) -> None:
    """Before it has got a single request, with the last words of its process."""
    world.cluster.broken[NEXT] = "cannot read the model"
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.ROLLED_BACK
    assert "ended 3 times, last with exit code 3: cannot read the model" in ended.release.reason
    assert all(NEXT not in one for one in world.cluster.seen)


def test_a_version_that_is_never_ready_goes_back(world: World, release: Callable[..., Release]) -> None:
    """At the release's own deadline, not at Knative's."""
    world.cluster.slow[NEXT] = float("inf")
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.ROLLED_BACK
    assert ended.release.reason.startswith("not ready within 60 s")
    assert sum(world.clock.slept) < 70
    assert all(NEXT not in one for one in world.cluster.seen)


def test_without_prometheus_nothing_moves(world: World, release: Callable[..., Release]) -> None:
    """Inconclusive until the step's time is up; then a person is asked, and the traffic stays."""
    world.evidence.away = True
    ended = world.steps().run(release())
    assert (ended.outcome, ended.release.stage) == (Outcome.INCONCLUSIVE, Stage.CANARY)
    assert world.cluster.seen[-1] == {GOOD: 95, NEXT: 5}
    assert any("Prometheus does not answer" in one.sentence for one in world.watcher.verdicts[-1].reasons)
    world.evidence.away = False
    world.clock.now += timedelta(hours=1)
    again = world.steps().run(world.resumed())
    assert again.release.stage is Stage.PROMOTED


def test_a_probe_that_fails_is_tried_again(world: World, release: Callable[..., Release]) -> None:
    """And the step's evidence begins only when the probe's own calls are over."""
    world.evidence.probe_away = 2
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.PROMOTED
    assert world.evidence.probed == 3
    assert sum(one.sentence.startswith("the probe set was answered") for one in ended.release.events) == 1


def test_contradicting_evidence_stops(world: World, release: Callable[..., Release]) -> None:
    """A person is told, and nothing is moved."""
    steps = world.steps()
    look = world.evidence.look

    def impossible(one: Release, elapsed_s: float) -> Look:
        found = look(one, elapsed_s)
        assert found.canary is not None
        return replace(found, canary=replace(found.canary, calls=replace(found.canary.calls, failed=-1.0)))

    world.evidence.look = impossible  # type: ignore[method-assign]  # counts that cannot be
    ended = steps.run(release())
    assert (ended.outcome, ended.release.stage) == (Outcome.ERROR, Stage.CANARY)
    assert "contradicts itself" in ended.sentence


def test_preflight_refuses_before_anything_is_changed(world: World, release: Callable[..., Release]) -> None:
    """The service is as it was, and the refusal is remembered."""

    def refuse(_: Release) -> str:
        raise RefusedError("no such file")

    world.preflight = refuse
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.REFUSED
    assert world.cluster.seen[-1] == {GOOD: 100}
    assert [(one.stage, one.reason) for one in world.record.history()] == [("refused", "no such file")]


def test_a_version_that_fails_the_probe_set_is_remembered(world: World, release: Callable[..., Release]) -> None:
    """In pre-flight as after a canary, so that no schedule tries it again and again."""

    def reject(_: Release) -> str:
        raise RejectedError("coverage")

    world.preflight = reject
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.REFUSED
    assert list(world.record.rejected()) == [ended.release.challenger.model_digest]
    assert world.registry.tags["rejected"] == "coverage"


def test_an_unanswered_capture_is_sent_again(world: World, release: Callable[..., Release]) -> None:
    """One request in thousands may fail: the next answer is whole, and evidence begins after it."""
    world.evidence.unanswered = 1
    ended = world.steps().run(release())
    assert ended.release.stage is Stage.PROMOTED
    assert world.evidence.probed == 2
    reason = world.watcher.verdicts[0].reasons[-1].sentence
    assert "the canary 1: it is sent again, 1 of 3 times until now" in reason
    assert world.evidence.asked[:2] == [0.0, 0.0]


def test_a_version_that_never_answers_all_of_it_stays_where_it_is(
    world: World, release: Callable[..., Release]
) -> None:
    """The probe set is sent three times; then the step's own evidence goes on until its time is up."""
    world.evidence.unanswered = 1_000
    ended = world.steps().run(release())
    assert (ended.outcome, ended.release.stage) == (Outcome.INCONCLUSIVE, Stage.CANARY)
    assert "the canary 1" in ended.sentence
    assert world.evidence.probed == 3
    told = [one.sentence for one in ended.release.events if one.sentence.startswith("the probe set")]
    assert told == ["the probe set was sent 3 times, never answered in full: evidence begins now"]
    world.evidence.failing = 0.2
    assert world.steps().run(world.resumed()).release.stage is Stage.ROLLED_BACK


def test_the_champion_s_own_model_is_refused(world: World, release: Callable[..., Release], good: ModelVersion) -> None:
    """Under another name: a rollback would reject the digest that it returns to."""
    same = replace(release().challenger, model_digest=good.model_digest)
    ended = world.steps().run(release(challenger=same))
    assert ended.release.stage is Stage.REFUSED
    assert "is the model that serves already" in ended.release.reason
    assert world.record.rejected() == {}


def test_judging_changes_nothing(world: World, release: Callable[..., Release]) -> None:
    """A canary that is held is judged until it is decided, at the same share."""
    held = world.steps().run(release(), until=lambda one: one.live).release
    judged, verdict = world.steps().judge(held)
    assert (verdict.outcome, judged.percent) == (Outcome.PASS, 5)
    assert world.cluster.seen[-1] == {GOOD: 95, NEXT: 5}


def test_without_evidence_nothing_is_judged(world: World, release: Callable[..., Release]) -> None:
    """Promotion and rollback by hand have none; a canary is no business of theirs."""
    steps = replace(world.steps(), evidence=None)
    with pytest.raises(TypeError, match="cannot be judged"):
        steps.judge(release(stage=Stage.CANARY))
