"""Checked access to the members of a JSON object: every fault names the member by its path, unknown ones included.

What belongs here: types and ranges of single JSON values. What does not: what a contract's members mean (`contract`).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from transformer.errors import BadContract

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Members:
    """The members of one JSON object, each to be taken once; `close` refuses what nobody has taken.

    Args:
        value: What the JSON text held at this place.
        path: Where that is, such as `features` or `receivers[2]`; empty for the whole document.

    Raises:
        BadContract: `value` is not an object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise BadContract(f"{path or 'contract'}: must be an object")
        self._members = dict(value)
        self._path = path

    def path(self, name: str) -> str:
        """The full path of a member."""
        return f"{self._path}.{name}" if self._path else name

    def close(self) -> None:
        """Raise `BadContract` if a member is left over: a name this reader does not know."""
        for name in self._members:
            raise BadContract(f"{self.path(name)}: unknown member")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def take(self, name: str) -> object:
        """The member's value as it is; raises `BadContract` if it is missing."""
        if name not in self._members:
            raise BadContract(f"{self.path(name)}: missing")
        return self._members.pop(name)

    def text(self, name: str, *, one_of: Sequence[str] = ()) -> str:
        """A string that is not empty, and one of the given ones if there are any."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise BadContract(f"{self.path(name)}: must be a non-empty string")
        if one_of and value not in one_of:
            raise BadContract(f"{self.path(name)}: must be {' or '.join(one_of)}, not {value}")
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within [low, high]."""
        return as_number(self.take(name), self.path(name), low, high)

    def positive(self, name: str) -> float:
        """A finite number above zero."""
        value = self.number(name)
        if value <= 0:
            raise BadContract(f"{self.path(name)}: must be above 0, not {value:g}")
        return value

    def count(self, name: str, low: int = 1) -> int:
        """A whole number of at least `low`."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise BadContract(f"{self.path(name)}: must be a whole number of at least {low}")
        return value

    def object(self, name: str) -> Members:
        """An object inside this one."""
        return Members(self.take(name), self.path(name))

    def objects(self, name: str) -> Iterator[Members]:
        """The objects of an array, one after another."""
        value = self.take(name)
        if not isinstance(value, list):
            raise BadContract(f"{self.path(name)}: must be an array")
        for index, item in enumerate(value):
            yield Members(item, f"{self.path(name)}[{index}]")

    def interval(self, name: str) -> tuple[float, float]:
        """An array of two numbers, the lower one first."""
        path, value = self.path(name), self.take(name)
        if not isinstance(value, list) or len(value) != len(("low", "high")):
            raise BadContract(f"{path}: must be an array of two numbers")
        low, high = (as_number(item, f"{path}[{index}]") for index, item in enumerate(value))
        if low >= high:
            raise BadContract(f"{path}: the first number must be below the second")
        return low, high


def as_number(value: object, path: str, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float within [low, high]; raises `BadContract` naming `path`. A boolean is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadContract(f"{path}: must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise BadContract(f"{path}: must be a finite number within [{low:g}, {high:g}]")
    return number


def parse_object(text: str | bytes) -> dict[str, object]:
    """Read a JSON text (RFC 8259) that holds an object; `BadContract` also for NaN, Infinity and doubled names."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise BadContract(f"contract: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadContract("contract: must be an object")
    return value


def _refuse_constant(name: str) -> float:
    raise BadContract(f"contract: {name} is not JSON")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise BadContract(f"contract: the member {doubled} stands twice in one object")
    return members
