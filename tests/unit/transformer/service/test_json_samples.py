from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from transformer.errors import BadRequest
from transformer.json_samples import Structure, broken_text, parse

FINITE = npst.from_dtype(np.dtype("<f4"), allow_nan=False, allow_infinity=False)
LEAVES = st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.booleans() | st.text()
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


def _parse(text: bytes) -> Any:  # noqa: ANN401 - an array
    return parse(simdjson.Parser().parse(text), Structure(text), "iq_data")


@given(npst.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 4), st.just(2)), elements=FINITE))
def test_round_trip(samples: Any) -> None:  # noqa: ANN401 - float32
    """Every finite FP32 comes back bit for bit, with and without the axis of the receivers, with spaces or not."""
    for array in (samples, samples[0]):
        for option in (0, orjson.OPT_INDENT_2):
            read = _parse(orjson.dumps(array.tolist(), option=option))
            assert (read.dtype, read.shape) == (np.float32, (1, *array.shape))
            assert read.tobytes() == array.tobytes()


@given(TREES)
def test_agrees_with_a_plain_reader(tree: object) -> None:
    """Whatever the lists look like: it is read just when it is regular and of numbers, as a slow reader says."""
    expected = _plainly(tree)
    if expected is None:
        with pytest.raises(BadRequest, match=r"^iq_data"):
            _parse(orjson.dumps(tree))
    else:
        np.testing.assert_array_equal(_parse(orjson.dumps(tree))[0], expected)


def _plainly(tree: object) -> Any:  # noqa: ANN401 - an array, or None
    try:
        array = np.array(tree, object)
    except ValueError:
        return None
    if array.ndim not in (2, 3) or array.shape[-1] != 2 or not all(type(x) in (int, float) for x in array.flat):
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float64).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[[[1,2],[3,4]],[[5,6],[7]]]", r"iq_data\[1\]\[1\]: must be a list of 2"),
        (b"[[[1,2],[3,4]],[[5,6]]]", r"iq_data\[1\]: must be a list of 2"),
        (b"[[[1,2],[3,null]]]", r"iq_data\[0\]\[1\]\[1\]: must be a number"),
        (b'[[1,2],[3,"4"]]', r"iq_data\[1\]\[1\]: must be a number"),
        (b"[[1,2],[true,4]]", r"iq_data\[1\]\[0\]: must be a number"),
        (b"[[[1,2]],[[[3,4]]]]", r"iq_data\[1\]\[0\]: must be a list of 2"),
        (b"[[1,2,3]]", r"iq_data: must be \[receivers\]\[samples\]\[2\]"),
        (b"[[[[1,2]]]]", r"iq_data: must be \[receivers\]\[samples\]\[2\]"),
        (b"[]", r"iq_data: must be \[receivers\]"),
        (b"1", r"iq_data: must be \[receivers\]"),
        (b"null", r"iq_data: must be \[receivers\]"),
    ],
)
def test_the_first_fault_is_named(text: bytes, message: str) -> None:
    """A missing number, another type and another nesting are found where they are."""
    with pytest.raises(BadRequest, match=message):
        _parse(text)


def test_arrays_vouch_only_for_themselves() -> None:
    """An irregular array is not saved by a regular one of the same shape beside it, before or behind."""
    regular, irregular = [[1, 2], [3, 4]], [[1, 2], [3, 4, 5], []]
    for order in ((regular, irregular), (irregular, regular)):
        text = orjson.dumps([*order])
        structure, views = Structure(text), simdjson.Parser().parse(text)
        with pytest.raises(BadRequest, match=r"iq_data"):
            [parse(view, structure, "iq_data") for view in views]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"iq_data":[[[1,2],[3,NaN]]]}', r"at byte 22, iq_data\[0\]\[1\]\[1\]"),
        (b'{"iq_data":[[1,2],[Infinity,4]]}', r"iq_data\[1\]\[0\]"),
        (b'{"iq_data":[[1,2],[3,4]],"cache_enabled":nope}', r"at byte \d+\)"),
        (b"", r"at byte 0\)"),
        (b'{"a":[1', r"at byte \d+\)"),
        (b'{"a":100000000000000000000000000}', "beyond 64 bits"),
    ],
)
def test_broken_text(body: bytes, message: str) -> None:
    """A text that is no JSON is located, among the samples by receiver, sample and component."""
    with pytest.raises(BadRequest, match=message):
        raise broken_text(body)
