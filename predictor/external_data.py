"""The files beside an ONNX model that hold its large tensors.

What belongs here: finding their names in the model's bytes. What does not: fetching or hashing them.

Found by the wire form of the entry rather than by parsing, which would need the `onnx` package.
"""

from __future__ import annotations

import mmap
import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOCATION = re.compile(rb"\x0a\x08location\x12")
"""How `StringStringEntryProto(key="location", value=…)` begins on the wire (onnx.proto, TensorProto.external_data):
field 1 of length 8, the key, then the tag of field 2, whose length and text follow."""


def names_in(model: Path) -> set[str]:
    """The normalised names, relative to the model's folder, that the model may mean by its external data.

    A metadata entry that happens to be called `location` is among them, although it names no file. Names that are
    absolute or leave the folder are not: the runtime refuses models that use them.
    """
    if model.stat().st_size == 0:
        return set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = {_delimited(content, match.end()) for match in _LOCATION.finditer(content)}
    return {posixpath.normpath(name) for name in names if is_inside(name)}


def is_inside(name: str) -> bool:
    """Whether a relative name stays in the folder that it is relative to, and is one that a file can have."""
    normal = posixpath.normpath(name)
    return bool(name) and "\0" not in name and not normal.startswith("/") and normal.split("/")[0] not in {".", ".."}


def _delimited(content: mmap.mmap, start: int) -> str:
    """The text after a varint length of at most two bytes (paths are shorter than 16,384 bytes)."""
    head = content[start : start + 2]
    if len(head) < 2:  # noqa: PLR2004 - the file ends here, in the middle of an entry
        return ""
    length, width = (head[0], 1) if head[0] < 0x80 else ((head[0] & 0x7F) | head[1] << 7, 2)  # noqa: PLR2004 - varint
    return content[start + width : start + width + length].decode(errors="replace")
