"""The OpenAPI 3.1 document of the web front end's REST API, for generated clients, for fuzzing and for the page.

What belongs here: paths, members and limits as `rest` and `rest_messages` read and write them. What does not:
V2, which has a document of its own (`oip.openapi`), and what a schema cannot say: how many receivers and samples the
model that is served wants. `GET /model/info` says that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oip.errors import BY_STATUS
from transformer import rest_examples
from transformer.query import DEFAULT_CONFIDENCE_LEVEL, MAX_SESSION_ID_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_COMMON_ERRORS = (400, 413, 415, 500, 504)
"""What any path may answer: every request has a body, even if an empty one, and a time budget."""

_INFO_ERRORS = (*_COMMON_ERRORS, 404, 502, 503)
_PREDICT_ERRORS = (*_INFO_ERRORS, 409, 422, 501)

DEGRADED = ("power", "clipped", "quantisation", "sigma_floor", "sigma_cap", "outside_region")
"""Why an answer deserves less trust: the reasons of `iq` and `answer`."""


def rest_document(version: str, prefix: str, max_batch: int) -> Schema:
    """The document.

    Args:
        version: Of the service.
        prefix: Of the paths; they are answered without it too.
        max_batch: Most predict requests of one batch.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "Heimdall inference", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": prefix}, {"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": _schemas(max_batch), "headers": _headers(), "parameters": _parameters()},
    }


_DESCRIPTION = (
    "Where a transmitter is, with an error ellipse that holds it with the probability asked for. "
    "Samples are I and Q relative to full scale, in the order of the receivers that `/model/info` lists. "
    "Binary tensors of the V2 protocol (`/v2/openapi.json`) cost a fraction of this JSON."
)


def _paths() -> Schema:
    text = {"type": "object"}
    return {
        "/predict": _post(
            "Locate one capture", "predict_request", "prediction", rest_examples.PREDICT, rest_examples.PREDICTION
        ),
        "/predict/batch": _post(
            "Locate several captures",
            "batch_request",
            "batch",
            rest_examples.BATCH_REQUEST,
            rest_examples.BATCH,
        ),
        "/model/info": _get(
            "What is being served", _ref("schemas", "model_info"), rest_examples.MODEL_INFO, _INFO_ERRORS
        ),
        "/health": _get("Whether a request could be answered now", _ref("schemas", "health"), rest_examples.HEALTH),
        "/openapi.json": _get("This document", text, None),
        "/docs": {"get": {"summary": "A page to try all this", "responses": {"200": _page()}}},
    }


def _post(summary: str, request: str, answer: str, example: object, answered: object) -> Schema:
    body = {"schema": _ref("schemas", request), "example": example}
    operation = {
        "summary": summary,
        "parameters": [_ref("parameters", "request_id"), _ref("parameters", "timeout_ms")],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": _json_answer("The answer", _ref("schemas", answer), answered)} | _errors(_PREDICT_ERRORS),
    }
    return {"post": operation}


def _get(summary: str, schema: Schema, example: object, errors: tuple[int, ...] = _COMMON_ERRORS) -> Schema:
    responses = {"200": _json_answer("The answer", schema, example)} | _errors(errors)
    if schema == _ref("schemas", "health"):
        responses["503"] = _json_answer("Not now", schema, rest_examples.UNHEALTHY)
    parameters = [_ref("parameters", "request_id"), _ref("parameters", "timeout_ms")]
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def _json_answer(description: str, schema: Schema, example: object) -> Schema:
    content = {"schema": schema} | ({} if example is None else {"example": example})
    return {
        "description": description,
        "headers": {"x-request-id": _ref("headers", "request_id")},
        "content": {"application/json": content},
    }


def _page() -> Schema:
    return {"description": "HTML", "content": {"text/html": {"schema": {"type": "string"}}}}


def _errors(statuses: tuple[int, ...]) -> Schema:
    answers = {str(one): _json_answer(BY_STATUS[one].__name__, _ref("schemas", "error"), None) for one in statuses}
    if "503" in answers:
        answers["503"]["headers"] |= {"retry-after": _ref("headers", "retry_after")}
    return answers


def _parameters() -> Schema:
    whole = {"type": "integer", "minimum": 1, "maximum": 10**15 - 1}
    timeout = "The time budget in milliseconds; it can only lower the server's own."
    return {
        "request_id": {"name": "x-request-id", "in": "header", "schema": {"type": "string"}},
        "timeout_ms": {"name": "x-request-timeout-ms", "in": "header", "schema": whole, "description": timeout},
    }


def _headers() -> Schema:
    return {"request_id": {"schema": {"type": "string"}}, "retry_after": {"schema": {"type": "integer", "minimum": 0}}}


def _schemas(max_batch: int) -> Schema:
    prediction, request = _ref("schemas", "prediction"), _ref("schemas", "predict_request")
    predictions = {"type": "array", "items": prediction, "minItems": 1, "maxItems": max_batch}
    return {
        "error": {"type": "object", "properties": {"error": _text()}, "required": ["error"]},
        "health": _object({"status": {"enum": ["healthy", "unhealthy"]}, "ready": {"type": "boolean"}}),
        "predict_request": _predict_request(),
        "batch_request": _object({"predictions": predictions | {"items": request}}),
        "prediction": _prediction(),
        "batch": _object(
            {
                "predictions": predictions,
                "batch_id": _text(),
                "batch_size": _whole(1),
                "total_time_ms": _number(0),
            }
        ),
        "model_info": _model_info(),
    }


def _predict_request() -> Schema:
    pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    one = {"type": "array", "items": pair, "minItems": 1}
    several = {"type": "array", "items": one, "minItems": 1}
    members: dict[str, Schema] = {
        "iq_data": {
            "oneOf": [several, one],
            "description": "[receivers][samples][2], or [samples][2] for one receiver",
        },
        "session_id": {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_SESSION_ID_LENGTH},
        "cache_enabled": {"type": ["boolean", "null"], "default": True},
        "confidence_level": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "default": DEFAULT_CONFIDENCE_LEVEL,
        },
        "full_scale_dbm": {"type": ["number", "null"], "minimum": -200, "maximum": 100},
    }
    return _object(members, "iq_data")


def _prediction() -> Schema:
    latitude, longitude, half_turn = _number(-90, 90), _number(-180, 180), _number(0, 180)
    level, length = _number(0, 1), _number(0)
    return _object(
        {
            "position": _object({"latitude": latitude, "longitude": longitude}),
            "uncertainty": _object(
                {"sigma_x": length, "sigma_y": length, "theta": half_turn, "confidence_interval": level}
            ),
            "ellipse": _object(
                {
                    "center": {"type": "array", "items": _number(), "minItems": 2, "maxItems": 2},
                    "semi_major_axis_m": length,
                    "semi_minor_axis_m": length,
                    "rotation_degrees": half_turn,
                    "bearing_degrees": half_turn,
                    "confidence_level": level,
                }
            ),
            "confidence": level,
            **_served(),
            "degraded": {"type": "array", "items": {"enum": list(DEGRADED)}},
            "inference_time_ms": length,
            "timestamp": {"type": "string", "format": "date-time"},
            "session_id": _text(),
            "_cache_hit": {"type": "boolean"},
        }
    )


def _served() -> Schema:
    digest = {"type": "string", "description": "sha256:HEX"}
    return {"model_version": _text(), "model_digest": digest, "contract_digest": digest, "arm": _text()}


_ALIAS = "The aliases that the registry gives the active version now; null where there is no registry or no answer"


def _model_info() -> Schema:
    perhaps = {"type": ["number", "null"], "minimum": 0}
    receiver = _object(
        {"name": _text(), "latitude": _number(-90, 90), "longitude": _number(-180, 180), "altitude_m": _number()}
    )
    return _object(
        {
            "model_name": _text(),
            "active_version": _text(),
            "alias": _list(_text()) | {"type": ["array", "null"], "description": _ALIAS},
            "arms": _list(_object({"name": _text(), "percent": _whole(0), "revision": _text()})),
            "requests_total": _whole(0),
            "errors_total": _whole(0),
            "cache_hit_rate": perhaps,
            "latency_ms": _object({"p50": perhaps, "p95": perhaps, "p99": perhaps}),
            "model_digest": _text(),
            "contract_digest": _text(),
            "confidence_meaning": _text(),
            "receivers": _list(receiver),
            "sample_rate_hz": _number(0),
            "samples": _whole(1),
            "full_scale_dbm": _number(),
            "uptime_s": _number(0),
        }
    )


def _object(members: Mapping[str, Schema], *required: str) -> Schema:
    """An object without further members; all of them are required unless some are named."""
    return {
        "type": "object",
        "properties": dict(members),
        "required": list(required or members),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _text() -> Schema:
    return {"type": "string"}


def _whole(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


def _number(least: float | None = None, most: float | None = None) -> Schema:
    limits = {"minimum": least, "maximum": most}
    return {"type": "number"} | {name: value for name, value in limits.items() if value is not None}


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}
