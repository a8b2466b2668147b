"""The alias of the champion and the tags of a version, after whole releases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rollout.errors import RegistryError
from rollout.release import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World

    from rollout.release import ModelVersion, Release

GOOD, NEXT = "s3://models/good", "s3://models/next"


def test_what_passes_is_not_rejected_any_more(world: World, release: Callable[..., Release]) -> None:
    """Released again by --again: from pre-flight on the registry lets a schedule take it up; or it warns."""
    world.registry.tags["rejected"] = "slow"
    world.steps().run(release(), until=lambda one: one.stage is Stage.CANARY)
    assert "rejected" not in world.registry.tags
    world.registry.tags["rejected"] = "slow"
    world.registry.away = True
    world.steps().run(release(), until=lambda one: one.stage is Stage.CANARY)
    assert any("registry was not told" in one for one in world.watcher.warnings)


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


def test_a_registry_that_is_away_stops_only_the_alias(world: World, release: Callable[..., Release]) -> None:
    """Tags are told as warnings; a promotion without its alias is not over, and is taken up again."""
    world.registry.away = True
    with pytest.raises(RegistryError):
        world.steps().run(release())
    assert world.resumed().stage is Stage.PROMOTING
    assert any("registry was not told" in one for one in world.watcher.warnings)
    world.registry.away = False
    assert world.steps().run(world.resumed()).release.stage is Stage.PROMOTED


def test_a_version_that_was_promoted_can_go_back(world: World, release: Callable[..., Release]) -> None:
    """The champion becomes a new revision, gets everything once it is ready, and has its alias back."""
    promoted = world.steps().run(release()).release
    back = replace(promoted, stage=Stage.ROLLING_BACK, reason="by hand", step_began_at=world.clock())
    ended = world.steps().run(back)
    assert ended.release.stage is Stage.ROLLED_BACK
    assert [one.get(NEXT, 0) for one in world.cluster.seen][-2:] == [100, 0]
    assert world.registry.aliases["champion"] == "1"
