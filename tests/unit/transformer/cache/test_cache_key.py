from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from transformer.cache_key import KEY_PREFIX, AnswerSource, item_keys

if TYPE_CHECKING:
    from oip.messages import Array

SOURCE = AnswerSource("localization", "12", "sha256:aa", "sha256:bb", -50.0)
WIRE_DTYPES = [np.dtype(name) for name in ("<f4", "<i2", "i1", "u1")]

texts = st.text(max_size=8)
sources = st.builds(AnswerSource, texts, texts, texts, texts, st.floats(-200, 100))
batches = st.sampled_from(WIRE_DTYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=4, max_dims=4, min_side=0, max_side=3))
)


@given(sources, sources)
def test_two_sources_never_share_a_key(first: AnswerSource, second: AnswerSource) -> None:
    """A key differs as soon as name, version, digests or full scale do, wherever the border between them lies."""
    assume(first != second)
    assert first.key_prefix() != second.key_prefix()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(AnswerSource)])
def test_every_member_of_the_source_counts(field: str) -> None:
    """No member of the source is left out of the key."""
    changed = dataclasses.replace(SOURCE, **{field: -50.000001 if field == "full_scale_dbm" else "other"})
    assert changed.key_prefix() != SOURCE.key_prefix()


def test_text_does_not_flow_from_one_member_into_the_next() -> None:
    """Version 1 with digest "2x" and version 12 with digest "x" are two sources."""
    one = dataclasses.replace(SOURCE, model_version="1", model_digest="2x")
    other = dataclasses.replace(SOURCE, model_version="12", model_digest="x")
    assert one.key_prefix() != other.key_prefix()


def _identity(item: Array) -> tuple[Any, ...]:
    return item.dtype.str, item.shape, item.tobytes()


@given(batches, batches)
def test_keys_are_equal_exactly_where_the_items_are(first: Array, second: Array) -> None:
    """Two items share a key if and only if datatype, shape and bytes are equal; signs of zero and NaNs included."""
    for one, one_key in zip(first, item_keys(SOURCE, first), strict=True):
        for other, other_key in zip(second, item_keys(SOURCE, second), strict=True):
            assert (one_key == other_key) == (_identity(one) == _identity(other))


@pytest.mark.parametrize("dtype", WIRE_DTYPES, ids=str)
def test_the_same_bytes_in_another_datatype_or_shape_are_another_item(dtype: np.dtype[Any]) -> None:
    """Zeros of equal length differ by datatype alone, and by shape alone."""
    raw = bytes(64)
    arrays = [np.frombuffer(raw, other).reshape(1, 1, -1, 2) for other in WIRE_DTYPES]
    keys = [item_keys(SOURCE, array)[0] for array in arrays]
    assert len(set(keys)) == len(WIRE_DTYPES)
    flat = np.frombuffer(raw, dtype)
    assert item_keys(SOURCE, flat.reshape(1, 1, -1, 2)) != item_keys(SOURCE, flat.reshape(1, 2, -1, 2))


@given(st.binary(min_size=1, max_size=80), st.data())
@settings(max_examples=50)
def test_one_changed_bit_changes_the_key(raw: bytes, data: st.DataObject) -> None:
    """Every bit of the samples counts."""
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    keys = [item_keys(SOURCE, np.frombuffer(some, "u1")[np.newaxis])[0] for some in (raw, bytes(changed))]
    assert keys[0] != keys[1]


def test_the_position_in_the_batch_does_not_count() -> None:
    """An item has the key alone that it has in a batch."""
    iq = np.arange(2 * 7 * 5 * 2, dtype=np.int16).reshape(2, 7, 5, 2)
    assert item_keys(SOURCE, iq) == item_keys(SOURCE, iq[:1]) + item_keys(SOURCE, iq[1:])


def test_a_cropped_capture_has_the_key_of_its_beginning() -> None:
    """What the model does not see does not count, though the bytes lie apart in memory."""
    long = np.arange(7 * 9 * 2, dtype=np.float32).reshape(1, 7, 9, 2)
    assert item_keys(SOURCE, long[:, :, :5]) == item_keys(SOURCE, long[:, :, :5].copy())


def test_keys_are_short_readable_and_in_their_own_name_space() -> None:
    """An operator can list the cache by its prefix, and a key takes less than 96 bytes."""
    (key,) = item_keys(SOURCE, np.zeros((1, 7, 5, 2), np.float32))
    assert key.decode().startswith(KEY_PREFIX)
    assert key.isascii()
    assert len(key) < 96
