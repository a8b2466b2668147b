"""Members of JSON objects, read with the checks that both requests and responses need.

What belongs here: one function per kind of member; each names the member's path when it is wrong. What does not: which
members there are (`codec`, `metadata`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from oip.errors import InvalidRequest
from oip.messages import DTYPES, NO_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Parameter

MAX_RANK = 32
"""numpy 1 goes to 32 axes, numpy 2 to 64; no model comes near."""

_MAX_BYTES = 2**63 - 1
_SCALARS = (bool, int, float, str)


def an_object(value: object, where: str) -> dict[str, Any]:
    """`value` as a JSON object."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: must be an object")
    return value


def a_list(members: Mapping[str, Any], key: str, where: str = "") -> list[Any]:
    """The member `key` as a list; an absent one and null count as empty."""
    value = members.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}{key}: must be an array")
    return value


def texts(members: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The member `key` as a list of strings; an absent one and null count as empty."""
    values = a_list(members, key)
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest(f"{key}: must be an array of strings")
    return tuple(values)


def text(members: Mapping[str, Any], key: str, where: str = "") -> str:
    """The member `key` as a string that is not empty."""
    value = members.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where}{key}: must be a string that is not empty")
    return value


def optional_text(members: Mapping[str, Any], key: str, where: str = "") -> str | None:
    """The member `key` as a string; None where it is absent or null."""
    value = members.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{where}{key}: must be a string")
    return value


def parameters(members: Mapping[str, Any], where: str = "") -> Mapping[str, Parameter]:
    """The member `parameters`: strings, numbers and booleans by name. None of them is null."""
    value = members.get("parameters")
    if value is None:
        return NO_PARAMETERS
    for key, item in an_object(value, f"{where}parameters").items():
        if not isinstance(item, _SCALARS):
            raise InvalidRequest(f"{where}parameters.{key}: must be a string, a number or a boolean")
    return value  # type: ignore[no-any-return]  # its values were checked one by one


def take_flag(values: Mapping[str, Parameter], key: str, where: str) -> tuple[bool | None, Mapping[str, Parameter]]:
    """The boolean parameter `key` (None where absent), and the other parameters."""
    if key not in values:
        return None, values
    flag = values[key]
    if not isinstance(flag, bool):
        raise InvalidRequest(f"{where}parameters.{key}: must be true or false")
    return flag, without(values, key)


def take_size(values: Mapping[str, Parameter], key: str, where: str) -> tuple[int | None, Mapping[str, Parameter]]:
    """The parameter `key` as a number of bytes (None where absent), and the other parameters."""
    if key not in values:
        return None, values
    size = values[key]
    if type(size) is not int or size < 0:
        raise InvalidRequest(f"{where}parameters.{key}: must be a number of bytes")
    return size, without(values, key)


def without(values: Mapping[str, Parameter], key: str) -> Mapping[str, Parameter]:
    """`values` but for `key`."""
    return {other: value for other, value in values.items() if other != key} if len(values) > 1 else NO_PARAMETERS


def a_datatype(members: Mapping[str, Any], where: str) -> str:
    """The member `datatype`: a key of `DTYPES`."""
    name = text(members, "datatype", where)
    if name not in DTYPES:
        raise InvalidRequest(f"{where}datatype: '{name[:32]}' is none of {', '.join(DTYPES)}")
    return name


def a_shape(members: Mapping[str, Any], datatype: str, where: str) -> tuple[int, ...]:
    """The member `shape`: at most `MAX_RANK` sizes from 0 on, whose product numpy can address.

    The product leaves sizes of 0 out, as numpy's own limit does.
    """
    value = members.get("shape")
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise InvalidRequest(f"{where}shape: must be an array of whole numbers from 0 on")
    if len(value) > MAX_RANK:
        raise InvalidRequest(f"{where}shape: {len(value)} axes; at most {MAX_RANK} are allowed")
    if math.prod(size or 1 for size in value) * DTYPES[datatype].itemsize > _MAX_BYTES:
        raise InvalidRequest(f"{where}shape: no memory holds so many elements")
    return tuple(value)


def metadata_shape(members: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The member `shape` of metadata, where -1 stands for a dynamic axis."""
    value = members.get("shape")
    if not isinstance(value, list) or not all(type(size) is int and size >= -1 for size in value):
        raise InvalidRequest(f"{where}shape: must be an array of whole numbers from -1 on")
    return tuple(value)


def must_differ(names: list[str], where: str) -> None:
    """No name may occur twice."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InvalidRequest(f"{where}: the name '{twice}' occurs twice")
