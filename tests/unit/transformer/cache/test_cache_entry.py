from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transformer.cache_entry import (
    ENTRY_BYTES,
    BadEntry,
    ItemAnswer,
    decode_entry,
    encode_entry,
    join_outputs,
    split_outputs,
)

KEY = b"heimdall:answer:1:key"
ANSWER = ItemAnswer(45.07, 7.69, 812.5, 401.25, 1.0, 0.75)

finite = st.floats(allow_nan=False, allow_infinity=False)
finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
answers = st.builds(ItemAnswer, finite, finite, finite, finite, finite, st.none() | finite32)


def _bits(answer: ItemAnswer) -> tuple[bytes | None, ...]:
    """The numbers by their bits: -0.0 is not 0.0 here."""
    numbers = (answer.latitude, answer.longitude, answer.sigma_x_m, answer.sigma_y_m, answer.theta_rad)
    confidence = None if answer.confidence is None else struct.pack("<d", answer.confidence)
    return *(struct.pack("<d", number) for number in numbers), confidence


@given(st.binary(max_size=100), answers)
def test_an_answer_comes_back_bit_for_bit(key: bytes, answer: ItemAnswer) -> None:
    """What the cache returns is what was computed, to the last bit and the sign of zero."""
    entry = encode_entry(key, answer)
    assert len(entry) == ENTRY_BYTES
    assert _bits(decode_entry(key, entry)) == _bits(answer)


def test_the_layout_is_the_documented_one() -> None:
    """Entries that another release wrote are read by the offsets in the module's description."""
    entry = encode_entry(KEY, ANSWER)
    assert entry[:8] == b"HDMA\x01\x01\x00\x00"
    assert struct.unpack("<5d", entry[8:48]) == (45.07, 7.69, 812.5, 401.25, 1.0)
    assert struct.unpack("<f", entry[48:52]) == (0.75,)
    assert entry[56:] == hashlib.blake2b(KEY + entry[:56], digest_size=8).digest()


@given(answers, st.binary(min_size=1, max_size=3), st.integers(0, ENTRY_BYTES - 1))
def test_any_damage_is_found(answer: ItemAnswer, mask: bytes, offset: int) -> None:
    """No changed byte, wherever it is, passes for an answer."""
    entry = bytearray(encode_entry(KEY, answer))
    for index, bits in enumerate(mask):
        entry[(offset + index) % ENTRY_BYTES] ^= bits
    assume(bytes(entry) != encode_entry(KEY, answer))
    with pytest.raises(BadEntry):
        decode_entry(KEY, bytes(entry))


@given(st.binary(max_size=2 * ENTRY_BYTES))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Bytes of any length and content are refused as such, never with another error."""
    with pytest.raises(BadEntry):
        decode_entry(KEY, garbage)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_an_entry_under_another_key_is_refused(key: bytes, other: bytes) -> None:
    """An intact entry that arrives as the answer to another question is not believed."""
    assume(key != other)
    with pytest.raises(BadEntry):
        decode_entry(other, encode_entry(key, ANSWER))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(wrong: float) -> None:
    """Even an entry with a good seal cannot bring numbers that a model's answer may not hold."""
    with pytest.raises(BadEntry, match="finite"):
        decode_entry(KEY, encode_entry(KEY, ItemAnswer(wrong, 0.0, 1.0, 1.0, 0.0, None)))


def test_another_format_is_refused() -> None:
    """An entry of a later format is a miss, not a misreading, even if its seal is right."""
    numbers = bytearray(encode_entry(KEY, ANSWER)[:56])
    numbers[4] = 2
    entry = bytes(numbers) + hashlib.blake2b(KEY + numbers, digest_size=8).digest()
    with pytest.raises(BadEntry, match="format"):
        decode_entry(KEY, entry)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_outputs_survive_the_way_through_items_and_entries(
    dtype: type[np.floating], columns: int, shape: tuple[int, ...]
) -> None:
    """A model's outputs, split, stored, read and joined, are the same numbers in double precision; theta 0 if none."""
    rng = np.random.default_rng(3)
    position, uncertainty = rng.normal(size=(3, 2)).astype(dtype), rng.normal(size=(3, columns)).astype(dtype)
    confidence = rng.random(shape).astype(dtype)
    split = split_outputs(position, uncertainty, confidence)
    joined = join_outputs([decode_entry(KEY, encode_entry(KEY, answer)) for answer in split])
    np.testing.assert_array_equal(joined.position, position.astype(np.float64))
    np.testing.assert_array_equal(joined.uncertainty[:, :columns], uncertainty.astype(np.float64))
    assert columns == 3 or not joined.uncertainty[:, 2].any()
    assert joined.confidence is not None
    assert joined.confidence.dtype == np.float32
    np.testing.assert_array_equal(joined.confidence, confidence.reshape(3).astype(np.float32))


def test_a_model_without_confidence_stays_without() -> None:
    """No confidence is not confidence 0."""
    split = split_outputs(np.zeros((2, 2)), np.ones((2, 2)), None)
    assert [answer.confidence for answer in split] == [None, None]
    assert join_outputs(split).confidence is None
