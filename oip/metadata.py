"""Metadata and error objects ⇄ JSON (OIP `required_api.md`, "Server Metadata", "Model Metadata", "Health", errors).

What belongs here: every body of the protocol that carries no tensor. What does not: inference (`codec`), HTTP (`asgi`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from oip import fields
from oip.errors import BadUpstream, InvalidRequest
from oip.json_document import parse_object
from oip.messages import ModelMetadata, ServerMetadata, TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.errors import OipError


def encode_server_metadata(metadata: ServerMetadata) -> bytes:
    """The answer to `GET /v2`."""
    return orjson.dumps({"name": metadata.name, "version": metadata.version, "extensions": list(metadata.extensions)})


def decode_server_metadata(body: bytes) -> ServerMetadata:
    """Read the answer to `GET /v2`; raises `BadUpstream`."""
    try:
        members = parse_object(body)
        extensions = fields.texts(members, "extensions")
        return ServerMetadata(fields.text(members, "name"), fields.text(members, "version"), extensions)
    except InvalidRequest as error:
        raise BadUpstream(f"the server metadata from upstream makes no sense: {error.message}") from error


def encode_model_metadata(metadata: ModelMetadata) -> bytes:
    """The answer to `GET /v2/models/{name}`; members that are empty and may be left out are left out."""
    members: dict[str, Any] = {
        "name": metadata.name,
        "platform": metadata.platform,
        "inputs": _tensors_members(metadata.inputs),
        "outputs": _tensors_members(metadata.outputs),
    }
    if metadata.versions:
        members["versions"] = list(metadata.versions)
    if metadata.parameters:
        members["parameters"] = dict(metadata.parameters)
    return orjson.dumps(members)


def decode_model_metadata(body: bytes) -> ModelMetadata:
    """Read the answer to `GET /v2/models/{name}`; raises `BadUpstream`."""
    try:
        members = parse_object(body)
        return ModelMetadata(
            name=fields.text(members, "name"),
            platform=fields.optional_text(members, "platform") or "",
            inputs=_decode_tensors(members, "inputs"),
            outputs=_decode_tensors(members, "outputs"),
            versions=fields.texts(members, "versions"),
            parameters=fields.parameters(members),
        )
    except InvalidRequest as error:
        raise BadUpstream(f"the model metadata from upstream makes no sense: {error.message}") from error


def encode_error(error: OipError) -> bytes:
    """The error object: `error` with the message, beside it the details."""
    return orjson.dumps({"error": error.message, **error.details})


def decode_error(body: bytes) -> tuple[str, Mapping[str, str]]:
    """An error object's message and its further members that are strings.

    A body that is no error object (a proxy's page, say) has the empty message: its text is nobody's business.
    """
    try:
        members = parse_object(body)
    except InvalidRequest:
        return "", {}
    texts = {key: value for key, value in members.items() if isinstance(value, str)}
    return texts.pop("error", ""), texts


def encode_flag(name: str, *, value: bool) -> bytes:
    """The answer of a health endpoint, for example `{"ready":true}`."""
    return orjson.dumps({name: value})


def encode_model_ready(model_name: str, *, ready: bool) -> bytes:
    """The answer to `GET /v2/models/{name}/ready`."""
    return orjson.dumps({"name": model_name, "ready": ready})


def _tensors_members(tensors: Sequence[TensorMetadata]) -> list[dict[str, Any]]:
    return [{"name": item.name, "datatype": item.datatype, "shape": list(item.shape)} for item in tensors]


def _decode_tensors(members: Mapping[str, Any], key: str) -> tuple[TensorMetadata, ...]:
    tensors = []
    for index, entry in enumerate(fields.a_list(members, key)):
        where = f"{key}[{index}]."
        tensor = fields.an_object(entry, f"{key}[{index}]")
        name = fields.text(tensor, "name", where)
        tensors.append(TensorMetadata(name, fields.a_datatype(tensor, where), fields.metadata_shape(tensor, where)))
    return tuple(tensors)
