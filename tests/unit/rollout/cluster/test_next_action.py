"""Decisions that whole releases (test_steps) do not come to by themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rollout.next_action import Apply, Begin, Enter, Finish, Measure, Stop, Wait, next_action
from rollout.observed import Observed
from rollout.release import Stage
from rollout.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.release import ModelVersion, Release

NOW = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)
LATE = NOW + timedelta(seconds=120)


def seen(model: ModelVersion, percent: int | None, **changes: object) -> Observed:
    """The newest revision, 00002, is ready and gets what it should; 00001 is KServe's stable side."""
    share = 100 if percent is None else percent
    traffic = (("00002", share), ("00001", 100 - share))
    found = Observed(model.storage_uri, model.version, model.model_digest, percent, arrived=True, traffic=traffic)
    ready = replace(found, newest="00002", newest_ready="00002", rolled_out="00001")
    return replace(ready, **changes)  # type: ignore[arg-type]  # attributes of Observed


@pytest.fixture
def canary(release: Callable[..., Release]) -> Release:
    """Live at 5 %."""
    return release(stage=Stage.CANARY, live=True, revision="00002", stable_revision="00001")


def test_a_release_that_is_over_has_no_next_action(release: Callable[..., Release], good: ModelVersion) -> None:
    """Asking is a mistake of the program."""
    with pytest.raises(ValueError, match="is over"):
        next_action(release(stage=Stage.PROMOTED), None, seen(good, 100), NOW)


def test_an_upgrade_in_the_middle_begins_the_evidence_anew(canary: Release, challenger: ModelVersion) -> None:
    """Helm changes the template: the same model in a new revision, which nothing is known of yet."""
    upgraded = seen(challenger, 5, newest="00003", newest_ready="00003", traffic=(("00003", 5), ("00001", 95)))
    action = next_action(canary, None, upgraded, NOW)
    assert isinstance(action, Begin)
    assert action.sentence.startswith("a new template: evidence begins anew")
    starting = replace(upgraded, newest_ready="00002", traffic=(("00001", 100),))
    assert isinstance(next_action(canary, None, starting, NOW), Measure)


def test_a_pod_that_is_gone_for_a_moment_stops_nothing(canary: Release, challenger: ModelVersion) -> None:
    """A live canary whose pod restarts is judged by its evidence."""
    assert isinstance(next_action(canary, None, seen(challenger, 5, ready=False), NOW), Measure)


@pytest.mark.parametrize("percent", [5, None])
def test_a_foreign_model_stops_the_release(canary: Release, challenger: ModelVersion, percent: int | None) -> None:
    """Whether the canary is live or not yet, and on the way to 100 % and back."""
    foreign = seen(replace(challenger, storage_uri="s3://other"), percent)
    for one in (
        canary,
        replace(canary, live=False),
        replace(canary, stage=Stage.PROMOTING),
        replace(canary, stage=Stage.ROLLING_BACK),
    ):
        action = next_action(one, None, foreign, NOW)
        assert isinstance(action, Stop)
        assert action.outcome is Outcome.ERROR
        assert "s3://other" in action.sentence


def test_without_a_champion_there_is_no_way_back(canary: Release, challenger: ModelVersion) -> None:
    """Which is told, and nothing is done."""
    action = next_action(replace(canary, stage=Stage.ROLLING_BACK, champion=None), None, seen(challenger, 5), NOW)
    assert isinstance(action, Stop)


def test_the_three_stations_of_a_rollback(canary: Release, challenger: ModelVersion, good: ModelVersion) -> None:
    """0 %, then the good template at 0 %, and everything only when it is ready: never a missing percentage."""
    back = replace(canary, stage=Stage.ROLLING_BACK, step_began_at=NOW)

    def after(observed: Observed, now: datetime = NOW) -> object:
        return next_action(back, None, observed, now)

    assert after(seen(challenger, 5)) == Apply(challenger, 0, "m version 2 gets no more requests")
    staying = seen(challenger, 0, traffic=(("00002", 5), ("00001", 95)))
    assert isinstance(after(staying), Wait)
    assert after(staying, LATE) == Apply(good, 0, "m version 1 as the newest revision, at 0 %")
    crashed = seen(challenger, 0, traffic=(("00002", 5), ("00001", 95)), failure="ended 2 times")
    assert after(crashed) == Apply(good, 0, "m version 1 as the newest revision, at 0 %")
    assert after(seen(challenger, 0)) == Apply(good, 0, "m version 1 as the newest revision, at 0 %")
    starting = seen(good, 0, newest="00003", traffic=(("00001", 100),))
    assert isinstance(after(starting), Wait)
    stuck = after(starting, LATE)
    assert isinstance(stuck, Stop)
    assert "its older revision serves" in stuck.sentence
    assert after(seen(good, 0)) == Apply(good, 100, "m version 1 is ready and gets everything")
    everything = seen(good, 100, traffic=(("00001", 100),), complaint="no route")
    assert isinstance(after(everything), Wait)
    stuck = after(everything, LATE)
    assert isinstance(stuck, Stop)
    assert stuck.sentence.startswith(
        "m version 1 does not get everything within 60 s of being given it: no route. Look"
    )
    assert isinstance(after(seen(good, 100)), Finish)
    assert isinstance(after(seen(good, None)), Finish)


def test_a_verdict_without_a_reason(canary: Release, challenger: ModelVersion) -> None:
    """Still says something."""
    verdict = Verdict(Outcome.INCONCLUSIVE, (), overdue=True)
    action = next_action(canary, verdict, seen(challenger, 5), NOW)
    assert isinstance(action, Stop)
    assert "no reason given" in action.sentence


def test_why_it_is_not_ready_is_told(canary: Release, challenger: ModelVersion) -> None:
    """In the words of the service's own conditions."""
    waiting = replace(canary, live=False, step_began_at=NOW)
    starting = seen(challenger, 5, newest_ready="00001", complaint="timed out progressing")
    assert isinstance(next_action(waiting, None, starting, NOW), Wait)
    action = next_action(waiting, None, starting, LATE)
    assert isinstance(action, Enter)
    assert action.sentence == "not ready within 60 s: timed out progressing"
