"""Whole releases on a cluster with KServe's rules, and a clock that only goes on when somebody sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rollout.errors import DeniedError, HeldError, RefusedError, RegistryError, RejectedError
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
    unanswered: int = 0
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
        """The same answers every time; the canary's last one is missing the first `unanswered` times."""
        self.probed += 1
        if self.probed <= self.probe_away:
            raise EvidenceUnavailable("the service does not answer")
        none, results = self.results.stable.error_m, self.results
        if self.probed <= self.unanswered:
            error_m = results.canary.error_m.copy()
            error_m[-1] = np.nan
            results = replace(results, canary=replace(results.canary, error_m=error_m))
        return Probed(results, Disagreement(1, 2.0, 0), Places(none, none, none, none[:, 0] > 0))


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

    def remove_alias(self, name: str, alias: str) -> None:  # noqa: ARG002 - the interface
        """One model's."""
        del self.aliases[alias]

    def untag(self, name: str, version: str, key: str) -> None:  # noqa: ARG002 - the interface
        """One version's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.tags.pop(key, None)

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
    check: Callable[[], None] = lambda: None

    def steps(self) -> Steps:
        """A new run, which remembers nothing of an earlier one."""
        return Steps(
            self.service,
            self.record,
            self.registry,  # type: ignore[arg-type]  # the part of it that is used
            self.evidence,
            self.preflight,
            self.check,
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


def test_an_admission_policy_ends_the_run(world: World, release: Callable[..., Release]) -> None:
    """A denied change is an error of its own kind; nothing was moved, and it can be tried again."""
    world.cluster.refused.add(NEXT)
    with pytest.raises(DeniedError):
        world.steps().run(release())
    assert world.resumed().stage is Stage.CANARY
    world.clock.now += timedelta(minutes=10)
    world.cluster.refused.clear()
    world.cluster.slow[NEXT] = 3
    assert world.steps().run(world.resumed()).release.stage is Stage.PROMOTED


@pytest.mark.parametrize("changes", [3, 4, 5])
@pytest.mark.parametrize("failing", [0.0, 0.2], ids=["good", "bad"])
def test_a_run_that_is_killed_anywhere_is_taken_up(
    world: World, release: Callable[..., Release], failing: float, changes: int
) -> None:
    """Killed after every few changes, and taken up an hour later from what was remembered: the end is the same."""
    world.evidence.failing = failing
    world.cluster.slow = {NEXT: 3, GOOD: 3}
    world.record.save(release(), world.clock())
    killed = 0
    while True:
        world.cluster.fails_at = len(world.cluster.log) + changes
        try:
            ended = world.steps().run(world.resumed())
            break
        except KeyboardInterrupt:
            killed += 1
            assert killed < 200
            world.clock.now += timedelta(hours=1)
    assert killed > 2
    assert ended.release.stage is (Stage.ROLLED_BACK if failing else Stage.PROMOTED)
    shares = [one.get(NEXT, 0) for one in world.cluster.seen]
    assert shares == ([0, 5, 0] if failing else [0, 5, 25, 50, 100])
    assert len(world.record.history()) == 1


@pytest.mark.parametrize("changes", range(1, 13))
def test_a_release_that_is_taken_up_late_is_not_late(
    world: World, release: Callable[..., Release], changes: int
) -> None:
    """Killed once, before and after its first share is set and routed, and taken up an hour later while it starts."""
    world.cluster.slow[NEXT] = 3
    world.record.save(release(), world.clock())
    world.cluster.fails_at = len(world.cluster.log) + changes
    with pytest.raises(KeyboardInterrupt):
        world.steps().run(world.resumed())
    world.clock.now += timedelta(hours=1)
    world.cluster.fails_at = float("inf")
    assert world.steps().run(world.resumed()).release.stage is Stage.PROMOTED
    assert world.record.rejected() == {}


def test_a_version_that_is_never_ready_is_given_its_time_once_more(
    world: World, release: Callable[..., Release]
) -> None:
    """Taken up late it has as long as in the first run, and no longer."""
    world.cluster.slow[NEXT] = float("inf")
    waiting = release(stage=Stage.CANARY)
    world.clock.now += timedelta(hours=1)
    ended = world.steps().run(waiting)
    assert ended.release.stage is Stage.ROLLED_BACK
    assert 60 < sum(world.clock.slept) < 70


def test_readiness_counts_from_the_change(
    world: World, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that takes more than a minute for it has not made the version late."""
    apply = world.service.apply

    def slowly(model: ModelVersion, percent: int) -> None:
        world.clock.now += timedelta(seconds=70)
        apply(model, percent)

    monkeypatch.setattr(world.service, "apply", slowly)
    world.cluster.slow[NEXT] = 3
    assert world.steps().run(release()).release.stage is Stage.PROMOTED


@pytest.mark.parametrize("stage", [Stage.PROMOTING, Stage.ROLLING_BACK])
def test_no_wait_is_without_an_end(world: World, release: Callable[..., Release], stage: Stage) -> None:
    """A template that never gets ready at 100 %, on the way there or back: a person is told, and no lease is held."""
    champion, challenger = release().champion, release().challenger
    assert champion is not None
    world.service.apply(challenger, 0)
    world.service.observe()
    world.cluster.slow = {NEXT: float("inf"), GOOD: float("inf")}
    if stage is Stage.ROLLING_BACK:
        world.service.apply(champion, 100)
    else:
        world.service.apply(replace(challenger, version="3"), 100)
    ended = world.steps().run(release(stage=stage))
    assert (ended.outcome, ended.release.stage) == (Outcome.ERROR, stage)
    assert "does not get everything within 60 s" in ended.sentence
    assert "Look at the pods and conditions of revision loc-predictor-" in ended.sentence
    assert sum(world.clock.slept) < 70
    assert world.resumed().events[-1].sentence == ended.sentence


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
    world.evidence.failing = 0.2
    assert world.steps().run(world.resumed()).release.stage is Stage.ROLLED_BACK


@pytest.mark.parametrize("end", ["passes", "is refused", "is rejected"])
def test_a_lease_that_is_lost_in_preflight_keeps_from_writing(
    world: World, release: Callable[..., Release], end: str
) -> None:
    """Pre-flight takes minutes: whoever has the lease by then may be at a release of his own."""
    held = True

    def long(_: Release) -> str:
        nonlocal held
        held = False
        if end == "passes":
            return "all is well"
        raise (RefusedError if end == "is refused" else RejectedError)("coverage")

    def check() -> None:
        if not held:
            raise HeldError("the lease was lost")

    world.preflight, world.check = long, check
    world.record.save(release(), world.clock())
    before = list(world.cluster.log)
    world.registry.tags["rejected"] = "once"
    with pytest.raises(HeldError):
        world.steps().run(world.resumed())
    assert world.cluster.log == before
    assert world.registry.tags == {"rejected": "once"}


@pytest.mark.parametrize("away", [False, True], ids=["after the probe set", "when it stops"])
def test_a_lease_that_is_lost_while_it_measures_keeps_from_writing(
    world: World, release: Callable[..., Release], *, away: bool
) -> None:
    """The probe set takes up to half an hour, and a step hours."""
    halted = world.steps().run(release(), until=lambda one: one.live)
    before = list(world.cluster.log)
    world.evidence.probe_away = 1_000 if away else 0

    def lost() -> None:
        if world.evidence.probed:
            raise HeldError("the lease was lost")

    world.check = lost
    with pytest.raises(HeldError):
        world.steps().run(halted.release)
    assert world.cluster.log == before


def test_what_passes_is_not_rejected_any_more(world: World, release: Callable[..., Release]) -> None:
    """Released again by --again: from pre-flight on the registry lets a schedule take it up; or it warns."""
    world.registry.tags["rejected"] = "slow"
    world.steps().run(release(), until=lambda one: one.stage is Stage.CANARY)
    assert "rejected" not in world.registry.tags
    world.registry.tags["rejected"] = "slow"
    world.registry.away = True
    world.steps().run(release(), until=lambda one: one.stage is Stage.CANARY)
    assert any("registry was not told" in one for one in world.watcher.warnings)


def test_the_champion_s_own_model_is_refused(world: World, release: Callable[..., Release], good: ModelVersion) -> None:
    """Under another name: a rollback would reject the digest that it returns to."""
    same = replace(release().challenger, model_digest=good.model_digest)
    ended = world.steps().run(release(challenger=same))
    assert ended.release.stage is Stage.REFUSED
    assert "is the model that serves already" in ended.release.reason
    assert world.record.rejected() == {}


def test_an_alias_that_was_moved_since_stays(world: World, release: Callable[..., Release]) -> None:
    """Somebody has given it to a third version: a rollback of the second is no reason to take it away."""
    promoted = world.steps().run(release()).release
    world.registry.aliases["champion"] = "3"
    back = replace(promoted, stage=Stage.ROLLING_BACK, reason="by hand")
    assert world.steps().run(back).release.stage is Stage.ROLLED_BACK
    assert world.registry.aliases["champion"] == "3"


def test_a_record_from_before_the_alias_was_remembered(world: World, release: Callable[..., Release]) -> None:
    """Then the alias goes back to the champion's version, as the service named it."""
    promoted = world.steps().run(release()).release
    back = replace(promoted, stage=Stage.ROLLING_BACK, reason="by hand", alias_before=None)
    assert world.steps().run(back).release.stage is Stage.ROLLED_BACK
    assert world.registry.aliases["champion"] == "1"


@pytest.mark.parametrize(("before", "after"), [("7", "7"), ("", "")])
def test_the_alias_goes_back_to_whose_it_was(
    world: World, release: Callable[..., Release], good: ModelVersion, before: str, after: str
) -> None:
    """Not to the version that the specification did not even name; killed between the moves, the same."""
    world.registry.aliases = {"champion": before} if before else {}
    unnamed = release(champion=replace(good, version="1"))
    world.record.save(unnamed, world.clock())
    while True:
        world.cluster.fails_at = len(world.cluster.log) + 3
        try:
            promoted = world.steps().run(world.resumed())
            break
        except KeyboardInterrupt:
            continue
    world.cluster.fails_at = float("inf")
    assert world.registry.aliases["champion"] == "2"
    back = replace(promoted.release, stage=Stage.ROLLING_BACK, reason="by hand")
    assert world.steps().run(back).release.stage is Stage.ROLLED_BACK
    assert world.registry.aliases.get("champion", "") == after


def test_without_a_registry_the_alias_is_told_to_stay(world: World, release: Callable[..., Release]) -> None:
    """Promoted by hand from a machine that does not know the registry, or rolled back there."""
    promoted = replace(world.steps(), registry=None).run(release()).release
    assert [one for one in world.watcher.warnings if "the alias champion stays" in one]
    world.watcher.warnings.clear()
    back = replace(promoted, stage=Stage.ROLLING_BACK, reason="by hand")
    replace(world.steps(), registry=None).run(back)
    assert world.watcher.warnings == []
    replace(world.steps(), registry=None).run(replace(back, alias_before="1"))
    assert [one for one in world.watcher.warnings if "the alias champion stays" in one]


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
