from __future__ import annotations

import pytest

from transformer.errors import BadContract
from transformer.json_members import Members, as_number, parse_object


@pytest.mark.parametrize("text", ["[1]", "{", '{"a":NaN}', '{"a":-Infinity}', '{"a":1,"a":2}', b"\xff", "[" * 100_000])
def test_only_strict_json_objects_are_read(text: str | bytes) -> None:
    """Whatever RFC 8259 does not allow or leaves open (NaN, doubled names) is refused, and nothing else escapes."""
    with pytest.raises(BadContract, match="contract"):
        parse_object(text)


def test_leftover_members_are_refused_by_path() -> None:
    """A member that nobody reads is named with its full path."""
    inner = Members({"a": {"b": 1, "typo": 2}}).object("a")
    assert inner.count("b") == 1
    with pytest.raises(BadContract, match=r"a\.typo: unknown"):
        inner.close()


@pytest.mark.parametrize("value", [True, "1", None, float("inf"), float("nan"), 10**400, -0.1, 1.1])
def test_numbers_are_finite_and_within_range(value: object) -> None:
    """Booleans, strings, non-finite numbers and those outside the range are no numbers."""
    with pytest.raises(BadContract, match="x"):
        as_number(value, "x", 0.0, 1.0)


@pytest.mark.parametrize("value", [5, [1.0], [1.0, 2.0, 3.0], [2.0, 1.0], [1.0, "2"]])
def test_intervals_have_two_rising_numbers(value: object) -> None:
    """An interval that is not [low, high] with low < high is refused."""
    with pytest.raises(BadContract, match="range"):
        Members({"range": value}).interval("range")
