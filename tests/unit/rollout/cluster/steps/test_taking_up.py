"""Releases that are killed, late, stuck, or no longer the business of the run that is at them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rollout.errors import DeniedError, HeldError, RefusedError, RejectedError
from rollout.release import Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World

    from rollout.release import ModelVersion, Release

GOOD, NEXT = "s3://models/good", "s3://models/next"


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
