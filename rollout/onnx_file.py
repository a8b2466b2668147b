"""What a release has to know of an ONNX file, without the `onnx` package.

What belongs here: the metadata and the names of the files with large tensors, read off the wire form (Protocol
Buffers, "Encoding"). What does not: fetching or hashing.

Numbers of the fields are onnx.proto's: ModelProto.metadata_props 14, a list of StringStringEntryProto with key 1 and
value 2; the same entries, with the key "location", are TensorProto.external_data.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    Content = bytes | mmap.mmap

_METADATA, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LAST_OF_VARINT = 0x80
_LOCATION = re.compile(rb"\x0a\x08location\x12")


class MalformedError(ValueError):
    """Bytes that are no message."""


def metadata(content: Content) -> dict[str, str]:
    """The model's metadata; raises `MalformedError` for what is no ONNX file."""
    found = {}
    for field, start, end in _fields(content, 0, len(content)):
        if field == _METADATA:
            entry = {number: content[a:b].decode() for number, a, b in _fields(content, start, end)}
            found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return found


def external_names(content: Content) -> set[str]:
    """Names of other files, relative to the model's folder, that may hold its tensors."""
    names = set()
    for match in _LOCATION.finditer(content):
        length, start = _varint(content, match.end())
        name = posixpath.normpath(content[start : start + length].decode(errors="replace"))
        if not name.startswith("/") and name.split("/")[0] not in {".", ".."}:
            names.add(name)
    return names


def _fields(content: Content, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every field that has a length; the others have nothing that is asked for here."""
    while at < end:
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(content, at)
            if at + length > end:
                raise MalformedError(f"a field of {length} bytes at {at} goes beyond the end at {end}")
            yield tag >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(content, at)
        elif kind in {_FIXED32, _FIXED64}:
            at += 4 if kind == _FIXED32 else 8
        else:
            raise MalformedError(f"wire type {kind} at {at}")


def _varint(content: Content, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    for position in range(at, min(at + 10, len(content))):
        byte = content[position]
        value |= (byte & ~_LAST_OF_VARINT) << shift
        if byte < _LAST_OF_VARINT:
            return value, position + 1
        shift += 7
    raise MalformedError(f"a number without an end at {at}")
