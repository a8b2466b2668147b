from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.release import (
    MAXIMUM_BYTES,
    Event,
    ReleaseError,
    Stage,
    StepResult,
    release_from_json,
    release_to_json,
)
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.release import Release

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
PASSED = Verdict(
    Outcome.PASS,
    (Reason("errors", Outcome.PASS, 0.1, 0.2, "fine – σ"), Reason("latency", Outcome.FAIL, None, None, "slow")),
    ("a note",),
    overdue=True,
)


def test_a_release_survives_its_text(release: Callable[..., Release]) -> None:
    """Whatever a release holds is there again after it was written and read."""
    event, step = Event(NOON, Stage.CANARY, 5, "began"), StepResult(5, NOON, NOON, PASSED, 120.0, 2280.0)
    full = release(stage=Stage.CANARY, step=1, live=True, events=(event,), steps=(step,), revision="b", reason="why")
    for one in (full, release(), release(champion=None, stage=Stage.REFUSED)):
        assert release_from_json(release_to_json(one)) == one


def test_times_are_written_in_utc(release: Callable[..., Release]) -> None:
    """A runner in another time zone means the same moment."""
    there = NOON.astimezone(timezone(timedelta(hours=2)))
    text = release_to_json(release(began_at=there))
    assert json.loads(text)["began_at"] == "2026-11-01T12:00:00+00:00"
    assert release_from_json(text).began_at == NOON


def test_a_long_history_loses_its_oldest_events_first(release: Callable[..., Release]) -> None:
    """The text stays within its limit, and the newest events stay in it."""
    events = tuple(Event(NOON, Stage.CANARY, 5, f"{number} {'x' * 100}") for number in range(500))
    text = release_to_json(release(events=events, steps=(StepResult(5, NOON, NOON, PASSED, 1.0, 2.0),)))
    kept = release_from_json(text)
    assert len(text.encode()) <= MAXIMUM_BYTES
    assert kept.events == events[-len(kept.events) :]
    assert 20 < len(kept.events) < 500
    assert kept.steps[0].verdict == PASSED


@pytest.mark.parametrize(("notes", "passes"), [(400, 0), (0, 400)])
def test_then_notes_and_passed_reasons_go(release: Callable[..., Release], notes: int, passes: int) -> None:
    """What is left at the very end is why something failed."""
    reasons = (Reason("errors", Outcome.FAIL, 1.0, 0.5, "too many"), *[PASSED.reasons[0]] * passes)
    verdict = replace(PASSED, reasons=reasons, notes=("n" * 50,) * notes)
    text = release_to_json(release(steps=(StepResult(5, NOON, NOON, verdict, 1.0, 2.0),)))
    kept = release_from_json(text).steps[0].verdict
    assert len(text.encode()) <= MAXIMUM_BYTES
    assert kept.reasons[0].sentence == "too many"
    assert not kept.notes


@given(
    st.lists(
        st.tuples(st.text("ab_-./: 9", max_size=250), st.floats(allow_nan=False, allow_infinity=False)), max_size=200
    ),
    st.text(max_size=50) | st.text(max_size=5).map(lambda text: text * 20_000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_a_model_of_many_words_can_be_released(
    release: Callable[..., Release], metrics: list[tuple[str, float]], signature: str
) -> None:
    """Its first metrics are remembered, and its signature unless it is long; nothing else is lost for them."""
    model = replace(release().challenger, metrics=tuple(metrics), signature=signature)
    events = tuple(Event(NOON, Stage.CANARY, 5, f"event {number}") for number in range(50))
    full = release(challenger=model, champion=model, events=events)
    kept = release_from_json(release_to_json(full))
    assert kept.challenger == kept.champion
    assert kept.challenger.metrics == model.metrics[: len(kept.challenger.metrics)]
    assert len(kept.challenger.metrics) >= min(len(metrics), 1)
    assert kept.challenger.signature in {"", signature}
    assert len(signature) > 150 or kept.challenger.signature == signature
    assert kept == replace(full, challenger=kept.challenger, champion=kept.champion)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_number_for_is_an_error(release: Callable[..., Release], value: float) -> None:
    """Of the command's own kind: not a traceback, whose exit code would say that the version is bad."""
    model = replace(release().challenger, metrics=(("loss", value),))
    with pytest.raises(ReleaseError, match="cannot be written"):
        release_to_json(release(challenger=model))


def test_what_never_fits_is_an_error(release: Callable[..., Release]) -> None:
    """A release that cannot be remembered is not begun."""
    with pytest.raises(ReleaseError, match="does not fit"):
        release_to_json(release(reason="x" * 2 * MAXIMUM_BYTES))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stage": "canary"}'])
def test_other_texts_are_no_release(text: str) -> None:
    """A damaged record is told as such."""
    with pytest.raises(ReleaseError, match="not a release"):
        release_from_json(text)


@pytest.mark.parametrize(
    ("stage", "percent", "finished"),
    [
        (Stage.PREFLIGHT, None, False),
        (Stage.CANARY, 25, False),
        (Stage.PROMOTING, 100, False),
        (Stage.ROLLING_BACK, 0, False),
        (Stage.PROMOTED, 100, True),
        (Stage.ROLLED_BACK, None, True),
        (Stage.REFUSED, None, True),
    ],
)
def test_each_stage_has_its_share(
    release: Callable[..., Release], stage: Stage, percent: int | None, *, finished: bool
) -> None:
    """The percentage that is shown is the one that the stage means."""
    one = release(stage=stage, step=1)
    assert (one.percent, one.stage.finished) == (percent, finished)
    assert one.told(NOON, "so").events == (Event(NOON, stage, percent, "so"),)
