"""What stands around the tensors of a request or a response, and messages whose JSON part came before.

What belongs here: every member of a message but its tensors' elements. What does not: choosing between JSON and binary
(`codec`).

Who sends binary tensors mostly sends the same JSON part every time: names, datatypes and shapes. It is read once and
remembered, which makes a message 20 µs of CPU cheaper.
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
from oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor

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


def response_with(members: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> InferResponse:
    """The response with these JSON members and these outputs; raises `InvalidRequest`."""
    return InferResponse(
        model_name=fields.text(members, "model_name"),
        model_version=fields.optional_text(members, "model_version"),
        id=fields.optional_text(members, "id"),
        parameters=fields.parameters(members),
        outputs=outputs,
    )


class _Slot(NamedTuple):
    """A tensor whose elements are binary: all but them."""

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
        slots = _slots(members, "inputs")
        request = request_with(members, (_NOTHING,) * len(slots))
        return _Envelope(replace(request, parameters=MappingProxyType(dict(request.parameters))), slots)
    except (InvalidRequest, KeyError):
        return None


def remembered_response(body: bytes, json_size: int) -> InferResponse | None:
    """The response in a binary body, in the same way as `remembered`; raises `InvalidRequest`."""
    envelope = _response_envelope(body[:json_size])
    if envelope is None:
        return None
    known, slots = envelope
    outputs = _tensors(slots, Binary(memoryview(body)[json_size:]), "outputs")
    return InferResponse(known.model_name, outputs, known.model_version, known.id, known.parameters)


@lru_cache(maxsize=64)
def _response_envelope(text: bytes) -> tuple[InferResponse, tuple[_Slot, ...]] | None:
    """The JSON part of a binary response; None in the same cases as for a request."""
    try:
        members = parse_object(text)
        slots = _slots(members, "outputs")
        response = response_with(members, ())
        return replace(response, parameters=MappingProxyType(dict(response.parameters))), slots
    except (InvalidRequest, KeyError):
        return None


def _slots(members: Mapping[str, Any], key: str) -> tuple[_Slot, ...]:
    """The tensors of a message; raises `KeyError` where an element stands in the text, and `InvalidRequest`."""
    entries = fields.a_list(members, key)
    if any(not isinstance(entry, dict) or "data" in entry for entry in entries):
        raise KeyError(key)
    slots = tuple(_slot(entry, f"{key}[{index}].") for index, entry in enumerate(entries))
    fields.must_differ([slot.name for slot in slots], key)
    return slots


def _slot(entry: Mapping[str, Any], where: str) -> _Slot:
    datatype = fields.a_datatype(entry, where)
    size, parameters = fields.take_size(fields.parameters(entry, where), "binary_data_size", where)
    if size is None:
        raise KeyError(where)
    shape = fields.a_shape(entry, datatype, where)
    return _Slot(fields.text(entry, "name", where), datatype, shape, size, MappingProxyType(dict(parameters)))


def _filled(envelope: _Envelope, raw: Binary) -> InferRequest:
    known = envelope.request
    tensors = _tensors(envelope.slots, raw, "inputs")
    return InferRequest(tensors, known.id, known.parameters, known.outputs, known.binary_output)


def _tensors(slots: tuple[_Slot, ...], raw: Binary, key: str) -> tuple[Tensor, ...]:
    """The slots with their elements; raises `InvalidRequest` where those are not what the JSON part announces."""
    tensors = []
    for index, slot in enumerate(slots):
        where = f"{key}[{index}].parameters.binary_data_size"
        taken = raw.take(slot.size, where)
        tensors.append(Tensor(slot.name, array_from_bytes(taken, slot.datatype, slot.shape, where), slot.parameters))
    raw.finish()
    return tuple(tensors)


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
