"""Tensor data as raw bytes, in both directions.

What belongs here: the elements of one tensor in the binary extension. What does not: where its bytes lie in the body
and how many there are; `codec` reads that from the envelope.

Triton's `extension_binary_data.md`, "Tensor data": little-endian, row-major, no stride or padding; BOOL is one byte
an element; each BYTES element is its length as four bytes, then its bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from oip.errors import InvalidRequest
from oip.messages import DTYPES

if TYPE_CHECKING:
    from oip.messages import Array

_LENGTH_BYTES = 4


class Binary:
    """The bytes behind the JSON text, handed out in order."""

    __slots__ = ("_rest",)

    def __init__(self, raw: memoryview) -> None:
        self._rest = raw

    def take(self, size: int, where: str) -> memoryview:
        """The next `size` bytes; raises `InvalidRequest` if there are fewer."""
        if size > len(self._rest):
            raise InvalidRequest(f"{where}: {size} bytes are announced, {len(self._rest)} are left in the body")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def finish(self) -> None:
        """Raise `InvalidRequest` if any are left."""
        if len(self._rest):
            raise InvalidRequest(f"body: {len(self._rest)} bytes are left after the last tensor")


def array_from_bytes(raw: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """The tensor whose elements are `raw`.

    Args:
        raw: Exactly the tensor's bytes.
        datatype: A key of `DTYPES`.
        shape: The tensor's shape, already checked.
        where: The field's path for error messages.

    Returns:
        A read-only view of `raw` where the processor can address it so; a copy where its start is not a multiple of the
        element's size (runtimes that are handed the array's pointer presume that); objects for BYTES.

    Raises:
        InvalidRequest: The bytes are not those of such a tensor.
    """
    dtype = DTYPES[datatype]
    count = math.prod(shape)
    if dtype.hasobject:
        return _bytes_elements(raw, count, where).reshape(shape)
    if count * dtype.itemsize != len(raw):
        raise InvalidRequest(
            f"{where}: {len(raw)} bytes, but {datatype} of shape {list(shape)} takes {count * dtype.itemsize}"
        )
    array = np.frombuffer(raw, dtype, count).reshape(shape)
    if dtype.kind == "b" and count and int(array.view(np.uint8).max()) > 1:
        raise InvalidRequest(f"{where}: a BOOL is a byte of 0 or 1")
    return array if array.flags.aligned else array.copy()


def bytes_from_array(array: Array) -> memoryview | bytes:
    """The elements of any array of the protocol, as one contiguous buffer; no copy where it is contiguous already."""
    if array.dtype.hasobject:
        return _joined_elements(array)
    if not array.size:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _bytes_elements(raw: memoryview, count: int, where: str) -> Array:
    if count * _LENGTH_BYTES > len(raw):  # before anything of that count is made
        raise InvalidRequest(f"{where}: {len(raw)} bytes cannot hold {count} BYTES elements")
    elements = np.empty(count, object)
    start = 0
    for index in range(count):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(raw[start:begin], "little")
        if start > len(raw):
            raise InvalidRequest(f"{where}: element {index} reaches beyond the tensor's {len(raw)} bytes")
        elements[index] = bytes(raw[begin:start])
    if start != len(raw):
        raise InvalidRequest(f"{where}: {len(raw) - start} bytes are left after element {count - 1}")
    return elements


def _joined_elements(array: Array) -> bytes:
    parts: list[bytes] = []
    for item in array.flat:
        element = item.encode() if isinstance(item, str) else item
        parts += (len(element).to_bytes(_LENGTH_BYTES, "little"), element)
    return b"".join(parts)
