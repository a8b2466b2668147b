"""Tensor data as JSON, in both directions.

What belongs here: the elements of one tensor. What does not: the envelope around it (`codec`) and the parser
(`json_document`).

The protocol (required_api.md, "Tensor Data") lets data be given row-major "in its natural multi-dimensional form or
as a flattened one-dimensional representation"; both are read, the flat form is written. JSON has no NaN and no
infinity (RFC 8259 section 6): they are neither read nor written.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simdjson

from oip.errors import InternalError, InvalidRequest
from oip.messages import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Array, Tensor

_SATURATED = 0xFFFFFF
"""simdjson stores the length of an array in 24 bits; `len` of a longer one is this."""

_WIDE: Mapping[str, tuple[Literal["d", "i", "u"], np.dtype[Any]]] = {
    "f": ("d", np.dtype("<f8")),
    "i": ("i", np.dtype("<i8")),
    "u": ("u", np.dtype("<u8")),
}
"""numpy kind → (simdjson buffer type, its dtype): the types in which JSON numbers arrive."""


def array_from_json(data: object, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """The tensor whose elements are the JSON value `data`.

    Large documents arrive as `simdjson.Array`. There, brackets around a single number are not noticed (the order of
    the elements cannot be misread); everywhere else the nesting must be that of `shape`.

    Args:
        data: A list or a `simdjson.Array`, flat or nested as `shape`.
        datatype: A key of `DTYPES`.
        shape: The tensor's shape, already checked.
        where: The field's path for error messages.

    Returns:
        A fresh array of `shape` and of the datatype's dtype.

    Raises:
        InvalidRequest: Wrong count, ragged nesting, or an element that the datatype cannot hold.
    """
    if not isinstance(data, list | simdjson.Array):
        raise InvalidRequest(f"{where}: must be an array")
    if isinstance(data, simdjson.Array) and DTYPES[datatype].kind not in _WIDE:
        data = data.as_list()
    nested = _is_nested(data, shape, where)
    if isinstance(data, simdjson.Array):
        flat = _from_buffer(data, datatype, where)
    else:
        flat = _from_list(_flatten(data, len(shape)) if nested else data, datatype, where)
    if flat.size != math.prod(shape):
        raise InvalidRequest(f"{where}: {flat.size} elements, but the shape {list(shape)} has {math.prod(shape)}")
    return flat.reshape(shape)


def json_from_array(tensor: Tensor, kind: str) -> Any:  # noqa: ANN401 - whatever orjson can write
    """The tensor's elements, flat, as something that orjson writes with `OPT_SERIALIZE_NUMPY`.

    Args:
        tensor: Any datatype of the protocol.
        kind: "input" or "output", for the error message.

    Raises:
        InternalError: Not finite.
        InvalidRequest: Bytes that are not UTF-8: only the client can ask for another encoding.
    """
    array = tensor.array
    if array.dtype == object:
        return _texts(tensor, kind)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InternalError(f"{kind} '{tensor.name}' is not finite and cannot be written as JSON; ask for it as binary")
    return np.ascontiguousarray(array).reshape(-1)


def _texts(tensor: Tensor, kind: str) -> list[str]:
    try:
        return [item if isinstance(item, str) else item.decode() for item in tensor.array.flat]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{kind} '{tensor.name}' is not UTF-8 text and cannot be written as JSON; ask for it as binary"
        ) from error


def _is_nested(data: list[Any] | simdjson.Array, shape: tuple[int, ...], where: str) -> bool:
    """Whether `data` is nested; if so, it must be so as `shape` down to the last axis. Flat data is counted later."""
    if len(shape) < 2 or not _is_array(next(iter(data), None)):  # noqa: PLR2004 - one axis is flat either way
        return False
    level: list[Any] = [data]
    for axis, size in enumerate(shape):
        if not all(_is_array(part) and _has_length(part, size) for part in level):
            raise InvalidRequest(f"{where}: must be flat, or nested as the shape {list(shape)}; axis {axis} is not")
        if axis < len(shape) - 1:
            level = [item for part in level for item in part]
    return True


def _is_array(value: object) -> bool:
    return isinstance(value, list | simdjson.Array)


def _has_length(part: list[Any] | simdjson.Array, size: int) -> bool:
    return len(part) == (size if isinstance(part, list) else min(size, _SATURATED))


def _from_buffer(data: simdjson.Array, datatype: str, where: str) -> Array:
    buffer_type, wide = _WIDE[DTYPES[datatype].kind]
    try:
        numbers = np.frombuffer(data.as_buffer(of_type=buffer_type), wide)
    except (TypeError, ValueError) as error:  # another type; a number outside the 64 bits
        raise _not_held(datatype, where) from error
    return _narrow(numbers, datatype, where)


def _flatten(data: list[Any], rank: int) -> list[Any]:
    for _ in range(rank - 1):
        data = list(chain.from_iterable(data))
    return data


def _from_list(elements: list[Any], datatype: str, where: str) -> Array:
    types = set(map(type, elements))
    match DTYPES[datatype].kind:
        case "O" if types <= {str}:
            return _bytes_array(elements)
        case "b" if types <= {bool}:
            return np.array(elements, np.bool_)
        case "f" if types <= {int, float}:
            return _narrow(np.array(elements, np.float64), datatype, where)
        case ("i" | "u") as kind if types <= {int}:
            return _integers(elements, datatype, _WIDE[kind][1], where)
    raise _not_held(datatype, where)


def _integers(elements: list[int], datatype: str, wide: np.dtype[Any], where: str) -> Array:
    try:
        return _narrow(np.array(elements, wide), datatype, where)
    except OverflowError as error:
        raise _not_held(datatype, where) from error


def _bytes_array(texts: list[str]) -> Array:
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    return array


def _narrow(numbers: Array, datatype: str, where: str) -> Array:
    """From 64 bits to the datatype, refusing what does not fit."""
    dtype = DTYPES[datatype]
    if dtype == numbers.dtype or not numbers.size:
        return numbers.astype(dtype, copy=False)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = numbers.astype(dtype)
        fits = bool(np.isfinite(narrow).all())
    else:
        limits = np.iinfo(dtype)
        fits = limits.min <= int(numbers.min()) and int(numbers.max()) <= limits.max
        narrow = numbers.astype(dtype)
    if not fits:
        raise _not_held(datatype, where)
    return narrow


def _not_held(datatype: str, where: str) -> InvalidRequest:
    dtype = DTYPES[datatype]
    match dtype.kind:
        case "O":
            takes = "strings"
        case "b":
            takes = "true and false"
        case "f":
            takes = f"finite numbers within ±{np.finfo(dtype).max:.6g}"
        case _:
            limits = np.iinfo(dtype)
            takes = f"whole numbers from {limits.min} to {limits.max}"
    return InvalidRequest(f"{where}: {datatype} takes {takes} only")
