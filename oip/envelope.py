"""What stands around a request's tensors, and requests whose JSON part came before.

What belongs here: every member of a request but its inputs' elements. What does not: responses, and choosing between
JSON and binary (`codec`).

A client that sends binary tensors mostly sends the same JSON part with every request: names, datatypes and shapes. It
is read once and remembered, which makes a request 20 µs of CPU cheaper.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from oip import fields
from oip.binary_tensors import Binary, array_from_bytes
from oip.errors import InvalidRequest
from oip.json_document import parse_object
from oip.messages import InferRequest, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Parameter

MAX_REMEMBERED_BYTES = 1024
"""Longer JSON parts are read every time, so that what is remembered stays below 64 KB."""

_NOTHING = Tensor("", np.empty(0, np.uint8))
"""Stands where the elements are not there yet."""


def request_with(members: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> InferRequest:
    """The request with these JSON members and these inputs; raises `InvalidRequest`."""
    binary_output, parameters = fields.take_flag(fields.parameters(members), "binary_data_output", "")
    if not inputs:
        raise InvalidRequest("inputs: at least one is needed")
    return InferRequest(
        inputs=inputs,
        id=fields.optional_text(members, "id"),
        parameters=parameters,
        outputs=_decode_requested(members),
        binary_output=bool(binary_output),
    )


class _Slot(NamedTuple):
    """An input whose elements are binary: all but them."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    parameters: Mapping[str, Parameter]


class _Envelope(NamedTuple):
    """A request all of whose inputs are binary: everything but their elements."""

    request: InferRequest
    slots: tuple[_Slot, ...]


def remembered(body: bytes, json_size: int) -> InferRequest | None:
    """The request in a binary body, by what was read of an equal JSON part; None where that cannot be used.

    Args:
        body: All of it.
        json_size: The length of its JSON part, within the body.

    Raises:
        InvalidRequest: The elements are not those that the JSON part announces.
    """
    envelope = _envelope(body[:json_size])
    return None if envelope is None else _filled(envelope, Binary(memoryview(body)[json_size:]))


@lru_cache(maxsize=64)
def _envelope(text: bytes) -> _Envelope | None:
    """The JSON part of a binary request. A client's requests mostly have the same one, which is then read once.

    None where an input's elements stand in the text; and where anything is wrong, which is told in the other way.
    """
    try:
        members = parse_object(text)
        entries = fields.a_list(members, "inputs")
        if any(not isinstance(entry, dict) or "data" in entry for entry in entries):
            return None
        slots = tuple(_slot(entry, f"inputs[{index}].") for index, entry in enumerate(entries))
        fields.must_differ([slot.name for slot in slots], "inputs")
        request = request_with(members, (_NOTHING,) * len(slots))
        return _Envelope(replace(request, parameters=MappingProxyType(dict(request.parameters))), slots)
    except (InvalidRequest, KeyError):
        return None


def _slot(entry: Mapping[str, Any], where: str) -> _Slot:
    datatype = fields.a_datatype(entry, where)
    size, parameters = fields.take_size(fields.parameters(entry, where), "binary_data_size", where)
    if size is None:
        raise KeyError(where)
    shape = fields.a_shape(entry, datatype, where)
    return _Slot(fields.text(entry, "name", where), datatype, shape, size, MappingProxyType(dict(parameters)))


def _filled(envelope: _Envelope, raw: Binary) -> InferRequest:
    tensors = []
    for index, slot in enumerate(envelope.slots):
        where = f"inputs[{index}].parameters.binary_data_size"
        taken = raw.take(slot.size, where)
        tensors.append(Tensor(slot.name, array_from_bytes(taken, slot.datatype, slot.shape, where), slot.parameters))
    raw.finish()
    known = envelope.request
    return InferRequest(tuple(tensors), known.id, known.parameters, known.outputs, known.binary_output)


def _decode_requested(members: Mapping[str, Any]) -> tuple[RequestedOutput, ...]:
    outputs = tuple(
        _decode_output(fields.an_object(entry, f"outputs[{index}]"), f"outputs[{index}].")
        for index, entry in enumerate(fields.a_list(members, "outputs"))
    )
    fields.must_differ([output.name for output in outputs], "outputs")
    return outputs


def _decode_output(entry: Mapping[str, Any], where: str) -> RequestedOutput:
    binary, parameters = fields.take_flag(fields.parameters(entry, where), "binary_data", where)
    return RequestedOutput(fields.text(entry, "name", where), binary, parameters)
