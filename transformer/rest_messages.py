"""The JSON of the web front end's REST API: requests to queries, localizations to responses.

What belongs here: the front end's field names and nothing else that V2 does not have. What does not: routing (`rest`)
and the work itself (`model`); both protocols share every step behind the query.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import simdjson

from transformer import json_samples
from transformer.errors import BadRequest
from transformer.json_samples import Structure, broken_text
from transformer.query import Query, make_query

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from oip.messages import Parameter
    from transformer.arms import Arms
    from transformer.described_model import DescribedModel
    from transformer.localization import Localization
    from transformer.observed import Observed

_PARAMETERS: Mapping[str, str] = {
    "session_id": "session_id",
    "cache_enabled": "cache",
    "confidence_level": "confidence_level",
    "full_scale_dbm": "full_scale_dbm",
}
"""Fields beside the samples → the V2 parameters that they stand for."""


@dataclass(frozen=True, slots=True, eq=False)
class PredictRequest:
    """One REST request: the question, and the session to echo (made up where the client sends none)."""

    query: Query
    session_id: str


def parse_predict(body: bytes) -> PredictRequest:
    """Read `POST /predict`; raises `BadRequest` naming the field."""
    return _parse_item(_parse_object(body), Structure(body), where="")


def parse_batch(body: bytes, max_items: int) -> tuple[PredictRequest, ...]:
    """Read `POST /predict/batch`: `{"predictions": [<a predict request>, …]}`; raises `BadRequest` naming the field."""
    document = _parse_object(body)
    if list(document.keys()) != ["predictions"]:
        raise BadRequest("the body must have one member, 'predictions': a list of predict requests")
    items = document["predictions"]
    if not isinstance(items, simdjson.Array) or not 0 < len(items) <= max_items:
        raise BadRequest(f"predictions: must be a list of 1 to {max_items} predict requests")
    structure = Structure(body)
    return tuple(_parse_item(item, structure, where=f"predictions[{index}].") for index, item in enumerate(items))


def in_rest_terms(message: str, where: str) -> str:
    """What the checks of the samples say of tensor `iq`, said of the field that a REST client has sent."""
    name, colon, rest = message.partition(": ")
    return f"{where}iq_data{colon}{rest.removeprefix('item 0, ')}" if name == "iq" else f"{where}{message}"


def _parse_object(body: bytes) -> Any:  # noqa: ANN401 - simdjson ships no types
    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError) as error:
        raise broken_text(body) from error
    if not isinstance(document, simdjson.Object):
        raise BadRequest("the body must be a JSON object")
    return document


def _parse_item(item: Any, structure: Structure, where: str) -> PredictRequest:  # noqa: ANN401 - untyped simdjson
    if not isinstance(item, simdjson.Object):
        raise BadRequest(f"{where.rstrip('.')}: must be a predict request")
    fields = _fields(item, where)
    if "iq_data" not in fields:
        raise BadRequest(f"{where}iq_data: is missing")
    parameters = _parameters(item, fields, where)
    iq = json_samples.parse(item["iq_data"], structure, f"{where}iq_data")
    try:
        query = make_query(iq, parameters)
    except BadRequest as error:
        raise BadRequest(_named_as_field(str(error), where)) from error
    return PredictRequest(query, query.session_id or uuid.uuid4().hex)


def _fields(item: Any, where: str) -> list[str]:  # noqa: ANN401 - simdjson ships no types
    fields = list(item.keys())
    for index, name in enumerate(fields):
        if name != "iq_data" and name not in _PARAMETERS:
            raise BadRequest(f"{where}{name[:64]}: unknown; known are iq_data, {', '.join(_PARAMETERS)}")
        if name in fields[:index]:
            raise BadRequest(f"{where}{name}: stands there twice")
    return fields


def _parameters(item: Any, fields: list[str], where: str) -> dict[str, Parameter]:  # noqa: ANN401 - untyped simdjson
    """The V2 parameters that the front end's fields stand for; a null counts as not sent."""
    parameters: dict[str, Parameter] = {}
    for field, parameter in _PARAMETERS.items():
        value = item[field] if field in fields else None
        if isinstance(value, simdjson.Array | simdjson.Object):
            raise BadRequest(f"{where}{field}: must not be a list or an object")
        if value is not None:
            parameters[parameter] = value
    return parameters


def _named_as_field(message: str, where: str) -> str:
    """`parameters.cache: …` of the shared check as `cache_enabled: …`, the name that the REST client knows."""
    name, _, rest = message.removeprefix("parameters.").partition(": ")
    field = next(field for field, parameter in _PARAMETERS.items() if parameter == name)
    return f"{where}{field}: {rest}"


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
        "_cache_hit": localization.cached[0],
    }


def version_of(members: Mapping[str, Any]) -> str:
    """The version that answered with these members; a batch counts for its first item's."""
    return str((members.get("predictions") or [members])[0].get("model_version", ""))


def model_info(
    model_name: str,
    model: DescribedModel,
    aliases: tuple[str, ...] | None,
    arms: Arms,
    observed: Observed,
    uptime_s: float,
) -> dict[str, Any]:
    """The members of the answer to `GET /model/info`; durations and rates are this process's own."""
    contract = model.contract
    p50_s, p95_s, p99_s = observed.percentiles_s(0.50, 0.95, 0.99)
    return {
        "model_name": model_name,
        "active_version": model.version,
        "alias": aliases,
        "arms": [{"name": arm.name, "percent": arm.percent, "revision": arm.revision} for arm in arms.candidates],
        "requests_total": observed.requests,
        "errors_total": observed.errors,
        "cache_hit_rate": observed.hit_rate,
        "latency_ms": {"p50": _ms(p50_s), "p95": _ms(p95_s), "p99": _ms(p99_s)},
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


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else duration_s * 1000.0


def encode(members: dict[str, Any]) -> bytes:
    """JSON text; numpy scalars as numbers, times as RFC 3339."""
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
