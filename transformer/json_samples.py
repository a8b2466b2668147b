"""Samples written as nested JSON lists, read straight into an array, with the place of whatever is wrong with them.

What belongs here: `[receivers][samples][2]` as text. What does not: what the numbers mean (`iq`), and the members that
stand beside them (`rest_messages`).

The numbers go into a buffer without becoming Python objects, which is 25 times faster and forgets how they were nested.
So the nesting is checked on the text, reduced to its brackets and commas: a regular array has exactly one such
skeleton. Only when something is wrong is the array walked through, to say where.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import simdjson

from transformer.errors import BadRequest

if TYPE_CHECKING:
    from oip.messages import Array

_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_NUMBERS_PER_SAMPLE = 2
_LARGEST_GAP = 1024
"""Structure between two arrays: the commas between members and, in the worst case, two session ids full of them."""


class Structure:
    """The brackets and commas of a JSON text, matched from front to back.

    Args:
        body: The text; its arrays must be asked for in their order.
    """

    def __init__(self, body: bytes) -> None:
        self._text = body.translate(None, _ALL_BUT_STRUCTURE)
        self._end = 0

    def take(self, shape: tuple[int, ...]) -> bool:
        """Whether the next array of the text is regular and has this shape; then it counts as read."""
        skeleton = _skeleton(shape)
        start = self._text.find(skeleton, self._end, self._end + _LARGEST_GAP + len(skeleton))
        self._end = start + len(skeleton)
        return start >= 0


def parse(value: Any, structure: Structure, where: str) -> Array:  # noqa: ANN401 - simdjson ships no types
    """FP32 [1,R,N,2] from `[R][N][2]`, or [1,N,2] from `[N][2]`.

    Args:
        value: simdjson's view of the lists.
        structure: Of the whole text.
        where: The member's path, for messages.

    Raises:
        BadRequest: Not regular, or not numbers; the first such place is named.
    """
    shape = _outer_shape(value, where)
    try:
        numbers = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
    except TypeError as error:
        raise _fault(value, shape, where) from error
    if numbers.size != math.prod(shape) or not structure.take(shape):
        raise _fault(value, shape, where)
    with np.errstate(over="ignore"):  # beyond FP32 becomes infinite, which the check of the samples names and refuses
        return numbers.astype(np.float32).reshape(1, *shape)


def broken_text(body: bytes) -> BadRequest:
    """The error for a body that is no JSON: what is wrong, and the place as a path where it is inside of lists.

    A NaN among the samples is the usual case: JSON has no such number (RFC 8259 §6).
    """
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"byte {error.pos}"
        before = body[: error.pos]
        member = before.rfind(b'"iq_data"')
        if member >= 0 and (path := _path(before[member:].translate(None, _ALL_BUT_STRUCTURE))):
            place += f", iq_data{path}"
        return BadRequest(f"the body is not valid JSON: {error.msg} (at {place})")
    return BadRequest("the body is not valid JSON: it holds a whole number beyond 64 bits")


def _outer_shape(value: Any, where: str) -> tuple[int, ...]:  # noqa: ANN401 - simdjson ships no types
    """Lengths along the first elements; whether the others are like them is seen later."""
    shape: list[int] = []
    while isinstance(value, simdjson.Array) and len(shape) < 4:  # noqa: PLR2004 - one deeper than any legal array
        shape.append(len(value))
        value = value[0] if len(value) else None
    if len(shape) not in (2, 3) or shape[-1] != _NUMBERS_PER_SAMPLE:
        raise BadRequest(f"{where}: must be [receivers][samples][2], or [samples][2] for one receiver")
    return tuple(shape)


def _skeleton(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of a regular array of that shape."""
    text = b"," * (shape[-1] - 1)
    for length in reversed(shape[:-1]):
        text = b",".join([b"[" + text + b"]"] * length)
    return b"[" + text + b"]"


def _fault(value: Any, shape: tuple[int, ...], where: str) -> BadRequest:  # noqa: ANN401 - simdjson ships no types
    found = _first_fault(value.as_list(), shape)
    if found is None:
        return BadRequest(f"{where}: must be a regular list {list(shape)}")
    indices, rule = found
    return BadRequest(f"{where}{''.join(f'[{index}]' for index in indices)}: {rule}")


def _first_fault(value: object, shape: tuple[int, ...]) -> tuple[list[int], str] | None:
    """Indices of the first element that is not as the shape says, and what it must be."""
    if not shape:
        return None if type(value) in (int, float) else ([], "must be a number")
    if not isinstance(value, list) or len(value) != shape[0]:
        return [], f"must be a list of {shape[0]}"
    for index, element in enumerate(value):
        found = _first_fault(element, shape[1:])
        if found is not None:
            return [index, *found[0]], found[1]
    return None


def _path(structure: bytes) -> str:
    """The indices at the end of a text that breaks off, from its brackets and commas."""
    indices: list[int] = []
    for character in structure:
        if character == ord("["):
            indices.append(0)
        elif character == ord("]") and indices:
            indices.pop()
        elif indices:
            indices[-1] += 1
    return "".join(f"[{index}]" for index in indices)
