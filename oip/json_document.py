"""JSON text → the top-level object, without a Python object for every number of a large tensor.

What belongs here: which parser reads which text, and nothing of what the members mean. Small texts (and the JSON part
of a binary request is always small) go through orjson. Large ones go through simdjson, which leaves each tensor's
`data` as a view on the parsed document (`simdjson.Array`), so that `json_tensors` can take its numbers as one buffer.

Each thread keeps one parser for documents of up to `KEPT_BYTES`: the memory that it works in is warm, which made 563 kB
of 17-digit numbers 13 % cheaper to parse. A larger document gets a parser of its own, whose memory goes with it instead
of staying for ever. Measured with the arrays made from it, that memory is 36 bytes for every number: 3 times the text
of usual floats, 18 times the text of one-digit numbers.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import orjson
import simdjson

from oip.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

LAZY_BYTES = 2 * 1024
"""From this size on simdjson is used; measured: at about 100 numbers the two are level, and orjson is simpler."""

KEPT_BYTES = 1024 * 1024
"""The largest document for which a kept parser is used; its memory then stays below 16 MB (14.7 bytes for each of the
text: the text again, its structure, its strings, its elements), of which only what was used counts."""

_MAX_MEMBERS = 32
"""No object of the protocol has as many members; objects with more are left to orjson."""

_TENSOR_LISTS = ("inputs", "outputs")


def parse_object(text: bytes | memoryview) -> dict[str, Any]:
    """Parse a JSON object.

    In documents of `LAZY_BYTES` or more, the `data` of the entries of `inputs` and `outputs` is a `simdjson.Array`;
    everything else is plain Python. Of members that occur twice, the last counts.

    Args:
        text: UTF-8 (RFC 8259 section 8.1).

    Raises:
        InvalidRequest: Not JSON, not an object, a number beyond FP64, or nested deeper than the parsers go (1024).
    """
    members = _parse_lazily(text) if len(text) >= LAZY_BYTES else _parse_eagerly(text)
    if not isinstance(members, dict):
        raise InvalidRequest("body: the JSON text must be an object")
    return members


def _parse_eagerly(text: bytes | memoryview) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"body: not valid JSON: {error.msg} (at byte {error.pos})") from error


def _parse_lazily(text: bytes | memoryview) -> object:
    try:
        document = _document(text)
        if not isinstance(document, simdjson.Object):
            return None
        return {key: _entries(value) if key in _TENSOR_LISTS else _plain(value) for key, value in _members(document)}
    except (ValueError, RuntimeError):
        # Whole numbers beyond 64 bits are legal in an FP64 tensor, but not for simdjson; and orjson says where the
        # error is. So the other parser has the last word.
        return _parse_eagerly(text)


class _Kept(threading.local):
    """This thread's parser."""

    parser: simdjson.Parser | None = None


_kept = _Kept()


def _document(text: bytes | memoryview) -> object:
    """The parsed text. The kept parser is taken only if nobody holds a view on its last document any more."""
    if len(text) > KEPT_BYTES:
        return simdjson.Parser().parse(text)
    parser, _kept.parser = _kept.parser or simdjson.Parser(), None
    try:
        document = parser.parse(text)
    except RuntimeError:  # simdjson's guard: a view is still held, and keeps that parser to itself
        parser = simdjson.Parser()
        document = parser.parse(text)
    _kept.parser = parser
    return document


def _members(value: simdjson.Object) -> Iterator[tuple[str, object]]:
    """The members as views; `Object.items` would turn every number into an object.

    Access by name searches the object from its beginning and for a C string: hence the conditions.
    """
    keys = list(value)
    if len(keys) > _MAX_MEMBERS or len(set(keys)) != len(keys) or any("\0" in key for key in keys):
        raise ValueError("not an envelope of the protocol")
    return ((key, value[key]) for key in keys)


def _entries(value: object) -> object:
    if not isinstance(value, simdjson.Array):
        return _plain(value)
    return [_entry(entry) for entry in value]


def _entry(entry: object) -> object:
    if not isinstance(entry, simdjson.Object):
        return _plain(entry)
    return {
        key: value if key == "data" and isinstance(value, simdjson.Array) else _plain(value)
        for key, value in _members(entry)
    }


def _plain(value: object) -> object:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value
