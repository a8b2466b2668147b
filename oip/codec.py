"""Requests and responses ⇄ bodies: JSON (OIP `required_api.md`, "Inference") and JSON with binary tensors behind it
(Triton's `extension_binary_data.md`).

What belongs here: the envelope, pure, bytes in and values out. What does not: HTTP (`asgi`), the elements of a tensor
(`json_tensors`, `binary_tensors`), metadata (`metadata`).

A body is the JSON text alone, or the JSON text (its length travels in the header
`Inference-Header-Content-Length`) and then, in the order of their tensors, the raw bytes of every tensor whose
parameter `binary_data_size` says how many there are. The JSON text written here is padded with spaces, so that the
first tensor's bytes can be used where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from oip import fields
from oip.binary_tensors import Binary, array_from_bytes, bytes_from_array
from oip.envelope import MAX_REMEMBERED_BYTES, remembered, remembered_response, request_with, response_with
from oip.errors import BadUpstream, InternalError, InvalidRequest
from oip.json_document import parse_object
from oip.json_tensors import array_from_json, json_from_array
from oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oip.messages import Parameter

_ALIGNMENT = 16
"""What malloc and so `bytes` objects are aligned to; a multiple of every element's size."""


@dataclass(frozen=True, slots=True)
class EncodedBody:
    """A body and, where binary tensors follow the JSON text, the text's length; None where it is all JSON."""

    body: bytes
    json_size: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedParts:
    """The same in parts, to be sent one after the other: the JSON text, and each binary tensor's elements as they lie.

    Joining 115 kB costs little by itself, but the copy is memory that is written and read once more.
    """

    parts: tuple[bytes | memoryview, ...]
    json_size: int | None = None

    def joined(self) -> EncodedBody:
        """In one piece."""
        return EncodedBody(b"".join(self.parts), self.json_size)


def decode_request(body: bytes, json_size: int | None = None) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: All of it. Binary tensors of the result are read-only views of it.
        json_size: The value of the header `Inference-Header-Content-Length`; None where there is none.

    Raises:
        InvalidRequest: Anything wrong, naming the field.
    """
    if json_size is not None and 0 < json_size <= min(MAX_REMEMBERED_BYTES, len(body)):
        request = remembered(body, json_size)
        if request is not None:
            return request
    text, raw = _split(body, json_size)
    members = parse_object(text)
    return request_with(members, _decode_tensors(members, "inputs", raw))


def decode_response(body: bytes, json_size: int | None = None) -> InferResponse:
    """Read the body of an inference response; the counterpart of `decode_request`.

    Raises:
        BadUpstream: Anything wrong, naming the field.
    """
    try:
        if json_size is not None and 0 < json_size <= min(MAX_REMEMBERED_BYTES, len(body)):
            response = remembered_response(body, json_size)
            if response is not None:
                return response
        text, raw = _split(body, json_size)
        members = parse_object(text)
        return response_with(members, _decode_tensors(members, "outputs", raw))
    except InvalidRequest as error:
        raise BadUpstream(f"the answer from upstream makes no sense: {error.message}") from error


def encode_request(request: InferRequest, *, binary: bool = True) -> EncodedBody:
    """Write an inference request.

    Args:
        request: Any request.
        binary: Whether its inputs are sent as binary tensors.

    Raises:
        InternalError: A dtype that the protocol does not have, or JSON asked for what JSON cannot say.
        InvalidRequest: JSON asked for bytes that are not UTF-8.
    """
    return encode_request_parts(request, binary=binary).joined()


def encode_request_parts(request: InferRequest, *, binary: bool = True) -> EncodedParts:
    """Write an inference request without joining its parts; the arguments and errors are those of `encode_request`."""
    members: dict[str, Any] = {}
    if request.id is not None:
        members["id"] = request.id
    parameters = dict(request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    if parameters:
        members["parameters"] = _finite(parameters)
    if request.outputs:
        members["outputs"] = [_requested_members(output) for output in request.outputs]
    return _assemble(members, "inputs", request.inputs, lambda _name: binary)


def encode_response(response: InferResponse, request: InferRequest) -> EncodedBody:
    """Write an inference response in the encoding that its request asked for.

    An output's own `binary_data` wins over the request's `binary_data_output`, which holds for every output that says
    nothing (extension_binary_data.md, "Inference Request": it "may be overridden by a request output's parameters").

    Raises:
        InternalError: A dtype that the protocol does not have, or a value that is not finite in JSON.
        InvalidRequest: JSON asked for bytes that are not UTF-8.
    """
    encoded = _all_binary(response, request)
    if encoded is not None:
        return encoded
    members: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version is not None:
        members["model_version"] = response.model_version
    if response.id is not None:
        members["id"] = response.id
    if response.parameters:
        members["parameters"] = _finite(response.parameters)
    asked = {output.name: output.binary for output in request.outputs if output.binary is not None}
    return _assemble(members, "outputs", response.outputs, lambda name: asked.get(name, request.binary_output)).joined()


def _all_binary(response: InferResponse, request: InferRequest) -> EncodedBody | None:
    """The response in binary, its JSON part taken from an equal response before; None where that does not apply."""
    for output in request.outputs:
        if not (request.binary_output if output.binary is None else output.binary):
            return None
    if not (request.outputs or request.binary_output):
        return None
    layout = []
    for tensor in response.outputs:
        if tensor.parameters or tensor.array.dtype.hasobject:
            return None
        layout.append((tensor.name, tensor.array.dtype, tensor.array.shape))
    parameters = tuple([(key, type(value), value) for key, value in response.parameters.items()])
    text = _response_text(response.model_name, response.model_version, parameters, tuple(layout))
    if response.id is not None:
        text = b"".join((b'{"id":', orjson.dumps(response.id), b",", text[1:]))
    text += b" " * (-len(text) % _ALIGNMENT)
    return EncodedBody(b"".join([text, *[tensor.array.tobytes() for tensor in response.outputs]]), len(text))


@lru_cache(maxsize=64)
def _response_text(
    model_name: str,
    model_version: str | None,
    parameters: tuple[tuple[str, type, Parameter], ...],
    layout: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
) -> bytes:
    members: dict[str, Any] = {"model_name": model_name}
    if model_version is not None:
        members["model_version"] = model_version
    if parameters:
        members["parameters"] = _finite({key: value for key, _, value in parameters})
    members["outputs"] = entries = []
    for name, dtype, shape in layout:
        entry = _tensor_members(Tensor(name, np.broadcast_to(np.empty((), dtype), shape)), "output")
        entry["parameters"] = {"binary_data_size": math.prod(shape) * dtype.itemsize}
        entries.append(entry)
    return orjson.dumps(members)


def _split(body: bytes, json_size: int | None) -> tuple[bytes | memoryview, Binary | None]:
    if json_size is None:
        return body, None
    if not 0 < json_size <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: must be from 1 to the body's {len(body)} bytes, not {json_size}"
        )
    view = memoryview(body)
    return view[:json_size], Binary(view[json_size:])


def _decode_tensors(members: Mapping[str, Any], key: str, raw: Binary | None) -> tuple[Tensor, ...]:
    tensors = tuple(
        _decode_tensor(fields.an_object(entry, f"{key}[{index}]"), f"{key}[{index}].", raw)
        for index, entry in enumerate(fields.a_list(members, key))
    )
    fields.must_differ([tensor.name for tensor in tensors], key)
    if raw is not None:
        raw.finish()
    return tensors


def _decode_tensor(entry: Mapping[str, Any], where: str, raw: Binary | None) -> Tensor:
    name = fields.text(entry, "name", where)
    datatype = fields.a_datatype(entry, where)
    shape = fields.a_shape(entry, datatype, where)
    size, parameters = fields.take_size(fields.parameters(entry, where), "binary_data_size", where)
    data = entry.get("data")
    if size is None:
        if data is None:
            raise InvalidRequest(f"{where}data: is missing, and so is parameters.binary_data_size")
        return Tensor(name, array_from_json(data, datatype, shape, f"{where}data"), parameters)
    if data is not None:
        raise InvalidRequest(f"{where}data: is given, and so is parameters.binary_data_size")
    if raw is None:
        raise InvalidRequest(f"{where}parameters.binary_data_size: needs the header Inference-Header-Content-Length")
    taken = raw.take(size, f"{where}parameters.binary_data_size")
    return Tensor(name, array_from_bytes(taken, datatype, shape, f"{where}parameters.binary_data_size"), parameters)


def _requested_members(output: RequestedOutput) -> dict[str, Any]:
    parameters = dict(output.parameters)
    if output.binary is not None:
        parameters["binary_data"] = output.binary
    return {"name": output.name, "parameters": _finite(parameters)} if parameters else {"name": output.name}


def _assemble(
    members: dict[str, Any], key: str, tensors: Sequence[Tensor], is_binary: Callable[[str], bool]
) -> EncodedParts:
    raws: list[memoryview | bytes] = []
    members[key] = entries = []
    for tensor in tensors:
        entry = _tensor_members(tensor, key[:-1])
        if is_binary(tensor.name):
            raw = bytes_from_array(tensor.array)
            entry["parameters"] = {**_finite(tensor.parameters), "binary_data_size": len(raw)}
            raws.append(raw)
        else:
            entry["data"] = json_from_array(tensor, key[:-1])
        entries.append(entry)
    text = orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raws:
        return EncodedParts((text,))
    text += b" " * (-len(text) % _ALIGNMENT)
    return EncodedParts((text, *raws), len(text))


def _tensor_members(tensor: Tensor, kind: str) -> dict[str, Any]:
    try:
        datatype = tensor.datatype
    except KeyError as error:
        raise InternalError(f"{kind} '{tensor.name}' has the dtype {tensor.array.dtype}, not one of V2") from error
    members: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": tensor.array.shape}
    if tensor.parameters:
        members["parameters"] = _finite(tensor.parameters)
    return members


def _finite(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    for key, value in parameters.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InternalError(f"the parameter '{key}' is not finite and cannot be written as JSON")
    return dict(parameters)
