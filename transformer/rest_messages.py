"""The JSON of the web front end's REST API: requests to queries, localizations to responses.

What belongs here: the front end's field names and nothing else that V2 does not have. What does not: routing (`rest`)
and the work itself (`model`); both protocols share every step behind the query.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import simdjson

from transformer.errors import BadRequest
from transformer.query import Query, make_query

if TYPE_CHECKING:
    from datetime import datetime

    from oip.messages import Array, Parameter
    from transformer.described_model import DescribedModel
    from transformer.localization import Localization

_FIELDS = ("iq_data", "session_id", "cache_enabled", "confidence_level", "full_scale_dbm")
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_NUMBERS_PER_SAMPLE = 2


@dataclass(frozen=True, slots=True, eq=False)
class PredictRequest:
    """One REST request: the question, and the session to echo (made up where the client sends none)."""

    query: Query
    session_id: str


def parse_predict(body: bytes) -> PredictRequest:
    """Read `POST /predict`; raises `BadRequest` naming the field."""
    return _parse_item(_parse_object(body), body, where="")


def parse_batch(body: bytes, max_items: int) -> tuple[PredictRequest, ...]:
    """Read `POST /predict/batch`: `{"predictions": [<a predict request>, …]}`; raises `BadRequest` naming the field."""
    document = _parse_object(body)
    if list(document.keys()) != ["predictions"]:
        raise BadRequest("the body must have one member, 'predictions': a list of predict requests")
    items = document["predictions"]
    if not isinstance(items, simdjson.Array) or not 0 < len(items) <= max_items:
        raise BadRequest(f"predictions: must be a list of 1 to {max_items} predict requests")
    return tuple(_parse_item(item, body, where=f"predictions[{index}].") for index, item in enumerate(items))


def _parse_object(body: bytes) -> Any:  # noqa: ANN401 - simdjson ships no types
    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError) as error:
        raise BadRequest("the body is not valid JSON") from error
    if not isinstance(document, simdjson.Object):
        raise BadRequest("the body must be a JSON object")
    return document


def _parse_item(item: Any, body: bytes, where: str) -> PredictRequest:  # noqa: ANN401 - simdjson ships no types
    if not isinstance(item, simdjson.Object):
        raise BadRequest(f"{where.rstrip('.')}: must be a predict request")
    fields = list(item.keys())
    for name in fields:
        if name not in _FIELDS:
            raise BadRequest(f"{where}{name}: unknown; known are {', '.join(_FIELDS)}")
    if "iq_data" not in fields:
        raise BadRequest(f"{where}iq_data: is missing")
    iq = _samples(item["iq_data"], body, f"{where}iq_data")
    query = make_query(iq, _parameters(item, fields, where))
    return PredictRequest(query, query.session_id or uuid.uuid4().hex)


def _parameters(item: Any, fields: list[str], where: str) -> dict[str, Parameter]:  # noqa: ANN401 - untyped simdjson
    """The V2 parameters that the front end's fields stand for; a null counts as not sent."""
    names = {"session_id": "session_id", "cache_enabled": "cache", "confidence_level": "confidence_level"}
    names["full_scale_dbm"] = "full_scale_dbm"
    parameters: dict[str, Parameter] = {}
    for field, parameter in names.items():
        value = item[field] if field in fields else None
        if isinstance(value, simdjson.Array | simdjson.Object):
            raise BadRequest(f"{where}{field}: must not be a list or an object")
        if value is not None:
            parameters[parameter] = value
    return parameters


def _samples(value: Any, body: bytes, where: str) -> Array:  # noqa: ANN401 - simdjson ships no types
    """FP32 [1,R,N,2] from [R][N][2], or [1,N,2] from [N][2].

    The numbers go straight into a buffer, which forgets how they were nested; so the nesting is checked on the text,
    reduced to its brackets and commas: a regular array has exactly one such skeleton.
    """
    shape = _outer_shape(value, where)
    try:
        numbers = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadRequest(f"{where}: every element must be a number") from error
    regular = numbers.size == math.prod(shape) and _skeleton(shape) in body.translate(None, _ALL_BUT_STRUCTURE)
    if not regular:
        raise BadRequest(f"{where}: must be a regular array [receivers][samples][2], or [samples][2] for one receiver")
    with np.errstate(over="ignore"):  # beyond FP32 becomes infinite, which the check of the samples names and refuses
        return numbers.astype(np.float32).reshape(1, *shape)


def _outer_shape(value: Any, where: str) -> tuple[int, ...]:  # noqa: ANN401 - simdjson ships no types
    """Lengths along the first elements; regularity is the caller's to check."""
    shape: list[int] = []
    while isinstance(value, simdjson.Array) and len(shape) < 4:  # noqa: PLR2004 - one deeper than any legal array
        shape.append(len(value))
        value = value[0] if len(value) else None
    if len(shape) not in (2, 3) or shape[-1] != _NUMBERS_PER_SAMPLE:
        raise BadRequest(f"{where}: must be [receivers][samples][2], or [samples][2] for one receiver")
    return tuple(shape)


def _skeleton(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of a regular array of that shape."""
    text = b"," * (shape[-1] - 1)
    for length in reversed(shape[:-1]):
        text = b",".join([b"[" + text + b"]"] * length)
    return b"[" + text + b"]"


def predict_response(
    request: PredictRequest, localization: Localization, elapsed_s: float, now: datetime
) -> dict[str, Any]:
    """The members of the answer to one predict request."""
    query, model = request.query, localization.model
    ellipse = localization.ellipses(query.confidence_level)
    estimate = localization.estimate
    return {
        "position": {"latitude": estimate.latitude[0], "longitude": estimate.longitude[0]},
        "uncertainty": {
            "sigma_x": estimate.sigma_x_m[0],
            "sigma_y": estimate.sigma_y_m[0],
            "theta": math.degrees(estimate.theta_rad[0]),
            "confidence_interval": query.confidence_level,
        },
        "ellipse": {
            "center": [estimate.latitude[0], estimate.longitude[0]],
            "semi_major_axis_m": ellipse.semi_major_m[0],
            "semi_minor_axis_m": ellipse.semi_minor_m[0],
            "rotation_degrees": (90.0 - ellipse.bearing_deg[0]) % 180.0,
            "bearing_degrees": ellipse.bearing_deg[0],
            "confidence_level": query.confidence_level,
        },
        "confidence": float(estimate.confidence[0]),
        "model_version": model.version,
        "model_digest": model.model_digest,
        "contract_digest": model.contract.digest,
        "arm": localization.arm.name,
        "degraded": localization.degraded[0],
        "inference_time_ms": elapsed_s * 1000.0,
        "timestamp": now,
        "session_id": request.session_id,
        "_cache_hit": False,
    }


def model_info(model_name: str, model: DescribedModel, uptime_s: float) -> dict[str, Any]:
    """The members of the answer to `GET /model/info`."""
    contract = model.contract
    return {
        "model_name": model_name,
        "active_version": model.version,
        "model_digest": model.model_digest,
        "contract_digest": contract.digest,
        "confidence_meaning": contract.outputs.confidence_meaning,
        "receivers": [
            {"name": one.name, "latitude": one.latitude, "longitude": one.longitude, "altitude_m": one.altitude_m}
            for one in contract.receivers
        ],
        "sample_rate_hz": contract.sample_rate_hz,
        "samples": contract.samples,
        "full_scale_dbm": contract.full_scale_dbm,
        "uptime_s": uptime_s,
    }


def encode(members: dict[str, Any]) -> bytes:
    """JSON text; numpy scalars as numbers, times as RFC 3339."""
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
