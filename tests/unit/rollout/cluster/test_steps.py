"""Whole releases on a cluster with KServe's rules, and a clock that only goes on when somebody sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from rollout.errors import DeniedError, RefusedError, RegistryError, RejectedError
from rollout.evidence import EvidenceUnavailable, Places, Probed
from rollout.measurements import Disagreement
from rollout.release import Stage
from rollout.steps import Steps
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock, FakeCluster

    from rollout.inference_service import InferenceService
    from rollout.measurements import ArmCounts, LiveDistributions, Look, ProbeResults
    from rollout.record import Record
    from rollout.release import Event, ModelVersion, Release
    from rollout.verdict import Verdict

GOOD, NEXT = "s3://models/good", "s3://models/next"


@dataclass
class FakeEvidence:
    """Counts that grow with the time since the step began."""

    arm: Callable[..., ArmCounts]
    results: ProbeResults
    failing: float = 0.0
    slower: float = 1.0
    away: bool = False
    probe_away: int = 0
    probed: int = 0
    asked: list[float] = field(default_factory=list)

    def look(self, release: Release, elapsed_s: float) -> Look:
        """A thousand calls a second, split by the percentage."""
        if self.away:
            raise EvidenceUnavailable("Prometheus does not answer")
        from rollout.measurements import Look  # noqa: PLC0415 - otherwise only for types

        self.asked.append(elapsed_s)
        calls = round(1_000 * elapsed_s * (release.percent or 0) / 100)
        others = round(1_000 * elapsed_s) - calls
        canary = self.arm(calls, round(calls * self.failing), 0.012 * self.slower)
        return Look(elapsed_s, self.arm(others, 0), canary)

    def live(self, release: Release) -> tuple[LiveDistributions, LiveDistributions] | None:  # noqa: ARG002 - interface
        """Nothing."""
        return None

    def probe(self, release: Release) -> Probed:  # noqa: ARG002 - the interface
        """The same answers every time."""
        self.probed += 1
        if self.probed <= self.probe_away:
            raise EvidenceUnavailable("the service does not answer")
        none = self.results.stable.error_m
        return Probed(self.results, Disagreement(1, 2.0, 0), Places(none, none, none, none[:, 0] > 0))


@dataclass
class FakeRegistry:
    """Aliases and tags in memory."""

    aliases: dict[str, str] = field(default_factory=lambda: {"champion": "1"})
    tags: dict[str, str] = field(default_factory=dict)
    away: bool = False

    def move_alias(self, name: str, alias: str, version: str) -> None:  # noqa: ARG002 - the interface
        """One model's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.aliases[alias] = version

    def version_of_alias(self, name: str, alias: str) -> str:  # noqa: ARG002 - the interface
        """One model's."""
        return self.aliases.get(alias, "")

    def tag(self, name: str, version: str, tags: dict[str, str]) -> None:  # noqa: ARG002 - the interface
        """One version's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.tags |= tags


@dataclass
class Watcher:
    """Remembers what it is told."""

    events: list[Event] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def happened(self, event: Event) -> None:
        """See `Progress`."""
        self.events.append(event)

    def judged(self, release: Release, verdict: Verdict) -> None:  # noqa: ARG002 - the interface
        """See `Progress`."""
        self.verdicts.append(verdict)

    def waiting(self, release: Release, sentence: str) -> None:
        """See `Progress`."""

    def warned(self, sentence: str) -> None:
        """See `Progress`."""
        self.warnings.append(sentence)


@dataclass
class World:
    """Everything around one release."""

    cluster: FakeCluster
    service: InferenceService
    record: Record
    clock: Clock
    evidence: FakeEvidence
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    watcher: Watcher = field(default_factory=Watcher)
    preflight: Callable[[Release], str] = lambda _: "all is well"

    def steps(self) -> Steps:
        """A new run, which remembers nothing of an earlier one."""
        return Steps(
            self.service,
            self.record,
            self.registry,  # type: ignore[arg-type]  # the part of it that is used
            self.evidence,
            self.preflight,
            lambda: None,
            self.watcher,
            self.clock,
            self.clock.sleep,
        )

    def resumed(self) -> Release:
        """The release as it was remembered."""
        found = self.record.release()
        assert found is not None
        return found


@pytest.fixture
def world(
    cluster: FakeCluster,
    service: InferenceService,
    record: Record,
    clock: Clock,
    arm: Callable[..., ArmCounts],
    probe: Callable[..., ProbeResults],
) -> World:
    """A good challenger unless a test says otherwise."""
    return World(cluster, service, record, clock, FakeEvidence(arm, probe(500)))


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


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"failing": 0.2}, "errors"), ({"slower": 3.0}, "latency")],
)
def test_a_bad_version_goes_back(
    world: World, release: Callable[..., Release], change: dict[str, float], reason: str
) -> None:
    """Its requests are taken away first, and at no moment does it get more than its share."""
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
    again = world.steps().run(replace(world.resumed(), step_began_at=world.clock()))
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


def test_an_admission_policy_ends_the_run(world: World, release: Callable[..., Release]) -> None:
    """A denied change is an error of its own kind; nothing was moved, and it can be tried again."""
    world.cluster.refused.add(NEXT)
    with pytest.raises(DeniedError):
        world.steps().run(release())
    assert world.resumed().stage is Stage.CANARY
    world.cluster.refused.clear()
    assert world.steps().run(world.resumed()).release.stage is Stage.PROMOTED


@pytest.mark.parametrize("failing", [0.0, 0.2], ids=["good", "bad"])
def test_a_run_that_is_killed_anywhere_is_taken_up(
    world: World, release: Callable[..., Release], failing: float
) -> None:
    """After every single change: killed just before it, resumed from what was remembered, the end is the same."""
    world.evidence.failing = failing
    world.record.save(release(), world.clock())
    killed = 0
    while True:
        world.cluster.fails_at = len(world.cluster.log) + 3
        try:
            ended = world.steps().run(world.resumed())
            break
        except KeyboardInterrupt:
            killed += 1
            assert killed < 200
    assert killed > 5
    assert ended.release.stage is (Stage.ROLLED_BACK if failing else Stage.PROMOTED)
    shares = [one.get(NEXT, 0) for one in world.cluster.seen]
    assert shares == ([0, 5, 0] if failing else [0, 5, 25, 50, 100])
    assert len(world.record.history()) == 1


def test_somebody_who_steps_in_is_not_overruled(
    world: World, release: Callable[..., Release], good: ModelVersion
) -> None:
    """A percentage or a model that another hand has set stays, and the run ends."""
    halted = world.steps().run(release(), until=lambda one: one.live)
    assert halted.sentence == "m version 2 is at 5 %"
    world.service.apply(halted.release.challenger, 0)
    ended = world.steps().run(halted.release)
    assert (ended.outcome, world.cluster.seen[-1][GOOD]) == (Outcome.ERROR, 100)
    assert "the percentage is 0 now" in ended.sentence
    world.service.apply(good, 0)
    ended = world.steps().run(halted.release)
    assert "somebody else has changed it" in ended.sentence


def test_a_version_that_was_promoted_can_go_back(world: World, release: Callable[..., Release]) -> None:
    """The champion becomes a new revision, gets everything once it is ready, and has its alias back."""
    promoted = world.steps().run(release()).release
    back = replace(promoted, stage=Stage.ROLLING_BACK, reason="by hand", step_began_at=world.clock())
    ended = world.steps().run(back)
    assert ended.release.stage is Stage.ROLLED_BACK
    assert [one.get(NEXT, 0) for one in world.cluster.seen][-2:] == [100, 0]
    assert world.registry.aliases["champion"] == "1"


def test_a_registry_that_is_away_stops_only_the_alias(world: World, release: Callable[..., Release]) -> None:
    """Tags are told as warnings; a promotion without its alias is not over, and is taken up again."""
    world.registry.away = True
    with pytest.raises(RegistryError):
        world.steps().run(release())
    assert world.resumed().stage is Stage.PROMOTING
    assert any("registry was not told" in one for one in world.watcher.warnings)
    world.registry.away = False
    assert world.steps().run(world.resumed()).release.stage is Stage.PROMOTED


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
