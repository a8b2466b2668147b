from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import orjson
import pytest
from traffic import MIXED, NUMBERS, Bodies, Draw, Form, Request, Traffic

from oip.codec import decode_request

CAPTURES = np.random.default_rng(1).normal(scale=0.1, size=(3, 2, 16, 2)).astype(np.float32)


def _samples(request: Request) -> np.ndarray:
    if request.form == Form.REST:
        return np.array(orjson.loads(request.body)["iq_data"], np.float32)[None]
    size = request.headers.get("Inference-Header-Content-Length")
    return decode_request(request.body, None if size is None else int(size)).inputs[0].array


@pytest.mark.parametrize("form", list(Form))
def test_a_capture_is_a_simulated_one_with_its_number_at_the_end(form: Form) -> None:
    """Every form is a valid request, differs from another capture's only in the last sample, and is the same again."""
    bodies = Bodies(Traffic(shares={form: 1.0}), CAPTURES)
    one, other, last = (_samples(bodies.request(form, number)) for number in (3, 6, NUMBERS - 1))
    assert one.shape == other.shape == (1, 2, 16, 2)
    assert (one.ravel()[:-2] == other.ravel()[:-2]).all()
    assert (one.ravel()[-2:] != other.ravel()[-2:]).any()
    assert np.abs(last.ravel()[-1]) <= (2048 if form == Form.INT16 else 0.05)
    scale = 32768.0 if form == Form.INT16 else 1.0
    assert one.ravel()[:-2] / scale == pytest.approx(CAPTURES[0].ravel()[:-2], abs=1 / 32768)
    assert bodies.request(form, 3) == bodies.request(form, 3)


def test_numbers_of_fp32_and_text_are_the_same_sample() -> None:
    """A capture has the same key in the cache over V2 binary, V2 JSON and REST, for its samples are equal."""
    bodies = Bodies(Traffic(shares=dict.fromkeys(Form, 1.0)), CAPTURES)
    for number in (0, 1, 77, NUMBERS - 1):
        tails = {_samples(bodies.request(form, number)).ravel()[-1] for form in Form if form != Form.INT16}
        assert len(tails) == 1


def test_the_draw_has_the_shares_it_was_told() -> None:
    """Forms, fresh captures and Zipf's law come out as asked; fresh captures come once."""
    drawn = list(islice(Draw(Bodies(MIXED, CAPTURES), seed=2), 20_000))
    forms = Counter(one.form for one in drawn)
    assert {form: count / 20_000 for form, count in forms.items()} == pytest.approx(MIXED.shares, abs=0.015)
    captures = Counter(one.capture for one in drawn)
    fresh = [number for number in captures if number >= MIXED.popular]
    assert len(fresh) == pytest.approx(4_000, abs=200)
    assert {captures[number] for number in fresh} == {1}
    harmonic = sum(1 / k for k in range(1, MIXED.popular + 1))
    for rank in (1, 2, 10):
        assert captures[rank - 1] == pytest.approx(16_000 / rank / harmonic, rel=0.2)


def test_the_same_seed_draws_the_same() -> None:
    """A run can be repeated, and clients with parts of their own do not send the same fresh captures."""
    first, again, other = (list(islice(Draw(Bodies(MIXED, CAPTURES), seed), 200)) for seed in (1, 1, 2))
    assert first == again
    fresh = [{one.capture for one in drawn if one.capture >= MIXED.popular} for drawn in (first, other)]
    assert not fresh[0] & fresh[1]


def test_batches_deadlines_and_no_cache() -> None:
    """A batch has so many items, a deadline is a header, and the cache can be refused in every form."""
    bodies = Bodies(Traffic(shares={Form.INT16: 1.0}, batch=3, cache=False, deadline_ms=500), CAPTURES)
    request = bodies.request(Form.INT16, 0)
    size = int(request.headers["Inference-Header-Content-Length"])
    assert decode_request(request.body, size).inputs[0].shape == (3, 2, 16, 2)
    assert decode_request(request.body, size).parameters["cache"] is False
    assert request.headers["x-request-timeout-ms"] == "500"
    with pytest.raises(ValueError, match="batch of 3"):
        Bodies(Traffic(shares={Form.REST: 1.0}, batch=3), CAPTURES)
