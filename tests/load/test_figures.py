from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import records
from figures import by_form, figures, repeated, wrong
from records import Answer, Record
from traffic import Form

if TYPE_CHECKING:
    from pathlib import Path

ONE = Record(intended_s=0.0, sent_s=0.0, done_s=1.0, form="fp32", capture=0, status=200, digest="a", model="m")


def _at(second: float, **changes: object) -> Record:
    return dataclasses.replace(ONE, intended_s=second, sent_s=second, done_s=second + 0.1, **changes)


def test_latency_counts_from_the_intended_moment() -> None:
    """What the generator was late is part of the latency, and is told beside it."""
    late = dataclasses.replace(ONE, sent_s=0.6)
    found = figures([late])
    assert (found.p50_ms, found.max_ms) == (1000.0, 1000.0)
    assert found.sender_lag_ms == pytest.approx(600.0)


def test_failures_count_and_are_named() -> None:
    """Everything but 200 is a failure, with its status and words; the rate is that of answers."""
    refused = _at(1.0, status=503, error="full", retry_after=True)
    found = figures([_at(0.0), refused, _at(2.0, status=0, error="reset")])
    assert (found.requests, found.failed, found.refused) == (3, 2, 1)
    assert found.failures == {"503 full": 1, "0 reset": 1}
    assert found.rate_hz == pytest.approx(1 / 2.1)


def test_a_repeat_left_after_the_first_answer() -> None:
    """Only a capture that was answered before, in the same form, could have been a hit."""
    first, during = _at(0.0), dataclasses.replace(ONE, intended_s=0.05, sent_s=0.05, done_s=0.2)
    after, other = _at(1.0, cached=True), _at(2.0, form="rest")
    assert repeated([first, during, after, other]) == [after]
    found = figures([first, during, after, other])
    assert (found.hit_rate, found.hit_rate_of_repeats) == (0.25, 1.0)
    assert by_form([first, other])["rest"].requests == 1


def test_another_answer_to_the_same_capture_is_wrong() -> None:
    """Two answers of one model to one capture have to be equal; two models' need not."""
    assert wrong([_at(0.0), _at(1.0), _at(2.0, model="n", digest="b"), _at(3.0, form="rest", digest="")]) == 0
    assert wrong([_at(0.0), _at(1.0, digest="b")]) == 1


def test_records_survive_their_file(tmp_path: Path) -> None:
    """What is read is what was written, in the order of the intended moments."""
    records.write(tmp_path / "r", [_at(1.0, error="ä"), _at(0.0)])
    assert records.read(tmp_path / "r") == [_at(0.0), _at(1.0, error="ä")]


def test_what_an_answer_says() -> None:
    """Hits over V2 and REST, the model and the numbers of a binary answer, and whether a refusal names a time."""
    text = b'{"parameters":{"cached":"[true]","model_digest":"sha256:1"}}'
    headers = {"Inference-Header-Content-Length": str(len(text))}
    told = Answer.read(Form.FP32, 200, headers, text + b"numbers")
    assert (told.cached, told.model, len(told.digest)) == (True, "sha256:1", 16)
    assert told.digest != Answer.read(Form.FP32, 200, headers, text + b"Numbers").digest
    assert Answer.read(Form.REST, 200, {}, b'{"_cache_hit":true}').cached
    refused = Answer.read(Form.FP32, 503, {"Retry-After": "1"}, b"full")
    assert (refused.retry_after, refused.error, refused.cached) == (True, "full", False)
    assert Answer.none(TimeoutError()).error == "TimeoutError()"
