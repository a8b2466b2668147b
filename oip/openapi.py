"""The OpenAPI 3.0 document of what the ASGI application serves, for generated clients and for fuzzing.

What belongs here: the shape of every path, request and answer, derived from the protocol's texts (OIP
`inference_rest.md`, `required_api.md`). What does not: how they are read and written (`codec`, `metadata`), and what a
schema cannot say: that `data` has as many elements as `shape` says, and that a model knows its inputs' names. Nor
the optional `extensions`: whether they are offered is told by the server's metadata.

Stricter than the protocol's own `open_inference_rest.yaml` where this service is: names are not empty, datatypes are
those of `DTYPES`, a parameter is a scalar. `data` may be missing, since binary tensors stand behind the JSON text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from oip.errors import BY_STATUS
from oip.messages import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_DESCRIPTION_ERRORS = (400, 404, 500, 503, 504)
_INFERENCE_ERRORS = (400, 404, 409, 413, 415, 422, 500, 501, 502, 503, 504)
_MODEL_PATHS = ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}")


def openapi_document(version: str) -> Schema:
    """The document.

    Args:
        version: Of the service, for `info`.
    """
    return {
        "openapi": "3.0.3",
        "info": {"title": "Open Inference Protocol (V2)", "version": version},
        "paths": _server_paths() | {path: item for prefix in _MODEL_PATHS for path, item in _model_paths(prefix)},
        "components": {"schemas": _schemas(), "headers": _headers(), "parameters": _parameters()},
    }


def encode_openapi(version: str) -> bytes:
    """The document as JSON; the answer to `GET /v2/openapi.json`."""
    return orjson.dumps(openapi_document(version))


def _server_paths() -> Schema:
    return {
        "/v2": _read("Server metadata", "server_metadata"),
        "/v2/health/live": _read("Whether the server is alive", "live"),
        "/v2/health/ready": _read("Whether all models are ready", "ready", not_ready="ready"),
        "/v2/openapi.json": _read("This document", "document"),
    }


def _model_paths(prefix: str) -> list[tuple[str, Schema]]:
    names = ["model_name", "model_version"] if "{model_version}" in prefix else ["model_name"]
    in_path = {"parameters": [_ref("parameters", name) for name in names]}
    return [
        (prefix, _read("Model metadata", "model_metadata") | in_path),
        (f"{prefix}/ready", _read("Whether the model is ready", "model_ready", not_ready="model_ready") | in_path),
        (f"{prefix}/infer", _infer() | in_path),
    ]


def _read(summary: str, schema: str, *, not_ready: str | None = None) -> Schema:
    """A GET operation; a health endpoint says no with 503 and its own body."""
    responses = {"200": _json_answer("The answer", _ref("schemas", schema))} | _errors(_DESCRIPTION_ERRORS)
    if not_ready is not None:
        either = {"oneOf": [_ref("schemas", not_ready), _ref("schemas", "error")]}
        responses["503"] = _json_answer("Not ready", either)
    return {"get": {"summary": summary, "parameters": _common_parameters(), "responses": responses}}


def _infer() -> Schema:
    answer = _json_answer("The outputs", _ref("schemas", "inference_response"))
    answer["content"] |= _binary_content()
    answer["headers"] |= {"Inference-Header-Content-Length": _ref("headers", "json_size")}
    request = {"application/json": {"schema": _ref("schemas", "inference_request")}} | _binary_content()
    operation = {
        "summary": "Inference",
        "description": "With binary tensors the JSON text comes first, and its length stands in the header.",
        "parameters": [*_common_parameters(), _ref("parameters", "json_size")],
        "requestBody": {"required": True, "content": request},
        "responses": {"200": answer} | _errors(_INFERENCE_ERRORS),
    }
    return {"post": operation}


def _common_parameters() -> list[Schema]:
    return [_ref("parameters", "request_id"), _ref("parameters", "timeout_ms")]


def _json_answer(description: str, schema: Schema) -> Schema:
    return {
        "description": description,
        "headers": {"x-request-id": _ref("headers", "request_id")},
        "content": {"application/json": {"schema": schema}},
    }


def _binary_content() -> Schema:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _errors(statuses: tuple[int, ...]) -> Schema:
    return {str(status): _json_answer(BY_STATUS[status].__name__, _ref("schemas", "error")) for status in statuses}


def _parameters() -> Schema:
    name = {"type": "string", "minLength": 1}
    return {
        "model_name": {"name": "model_name", "in": "path", "required": True, "schema": name},
        "model_version": {"name": "model_version", "in": "path", "required": True, "schema": name},
        "request_id": {"name": "x-request-id", "in": "header", "schema": {"type": "string"}},
        "timeout_ms": {"name": "x-request-timeout-ms", "in": "header", "schema": _whole(1, 10**15 - 1)},
        "json_size": {"name": "Inference-Header-Content-Length", "in": "header", "schema": _whole(1, 10**15 - 1)},
    }


def _headers() -> Schema:
    return {"request_id": {"schema": {"type": "string"}}, "json_size": {"schema": _whole(1)}}


def _schemas() -> Schema:
    text, name, texts = {"type": "string"}, {"type": "string", "minLength": 1}, _list({"type": "string"})
    return {
        "document": {"type": "object"},
        "error": _object({"error": text}, "error"),
        "live": _object({"live": {"type": "boolean"}}, "live"),
        "ready": _object({"ready": {"type": "boolean"}}, "ready"),
        "model_ready": _object({"name": name, "ready": {"type": "boolean"}}, "name", "ready"),
        "server_metadata": _object(
            {"name": text, "version": text, "extensions": texts}, "name", "version", "extensions"
        ),
        "metadata_tensor": _tensor(-1),
        "model_metadata": _object(
            {
                "name": name,
                "versions": texts,
                "platform": text,
                "inputs": _list(_ref("schemas", "metadata_tensor")),
                "outputs": _list(_ref("schemas", "metadata_tensor")),
                "parameters": _ref("schemas", "parameters"),
            },
            *("name", "platform", "inputs", "outputs"),
        ),
        "parameters": {
            "type": "object",
            "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
        },
        "tensor_data": _list(
            {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}, _ref("schemas", "tensor_data")]}
        ),
        **_inference_schemas(),
    }


def _inference_schemas() -> Schema:
    text = {"type": "string"}
    parameters, data = _ref("schemas", "parameters"), _ref("schemas", "tensor_data")
    tensor = _tensor(0, {"parameters": parameters, "data": data})
    asked = _object({"name": {"type": "string", "minLength": 1}, "parameters": _nullable("parameters")}, "name")
    return {
        "request_input": _tensor(0, {"parameters": _nullable("parameters"), "data": data}),
        "request_output": asked,
        "response_output": tensor,
        "inference_request": _object(
            {
                "id": {**text, "nullable": True},
                "parameters": _nullable("parameters"),
                "inputs": {**_list(_ref("schemas", "request_input")), "minItems": 1},
                "outputs": {**_list(_ref("schemas", "request_output")), "nullable": True},
            },
            "inputs",
        ),
        "inference_response": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": parameters,
                "outputs": _list(_ref("schemas", "response_output")),
            },
            *("model_name", "outputs"),
        ),
    }


def _tensor(least: int, others: Mapping[str, Schema] | None = None) -> Schema:
    """Name, datatype and shape; `least` is -1 where dynamic axes are allowed."""
    members: Schema = {
        "name": {"type": "string", "minLength": 1},
        "datatype": {"type": "string", "enum": list(DTYPES)},
        "shape": _list(_whole(least)),
    }
    return _object(members | dict(others or {}), *members)


def _object(members: Mapping[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": dict(members), "required": list(required)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _whole(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _nullable(schema: str) -> Schema:
    """The schema, or null, which the protocol's readers here take for an absent member."""
    return {"nullable": True, "allOf": [_ref("schemas", schema)]}
