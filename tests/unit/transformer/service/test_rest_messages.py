from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from transformer.answer import Estimate
from transformer.answer_cache import CacheEvent
from transformer.arms import Arm, Arms
from transformer.errors import BadRequest
from transformer.localization import Localization
from transformer.metrics import Metrics
from transformer.observed import Observed
from transformer.query import Query
from transformer.rest_messages import (
    PredictRequest,
    encode,
    in_rest_terms,
    model_info,
    parse_batch,
    parse_predict,
    predict_response,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from transformer.described_model import DescribedModel

SAMPLES = [[1.0, 2.0], [3.0, 4.0]]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _body(**members: Any) -> bytes:  # noqa: ANN401 - any JSON
    return orjson.dumps({"iq_data": SAMPLES} | members)


def test_defaults() -> None:
    """Without options the query is the same as over V2, and a session is made up."""
    first, second = parse_predict(_body()), parse_predict(_body(session_id=None, confidence_level=None))
    assert first.query.iq.tolist() == [SAMPLES]
    assert (first.query.confidence_level, first.query.cache, first.query.full_scale_dbm) == (0.95, True, None)
    assert first.query.session_id is second.query.session_id is None
    assert first.session_id != second.session_id


def test_every_field() -> None:
    """The front end's fields mean the V2 parameters that they stand for."""
    fields = {"session_id": "[,],", "cache_enabled": False, "confidence_level": 0.5, "full_scale_dbm": -40}
    for body in (_body(**fields), orjson.dumps(fields | {"iq_data": SAMPLES})):
        request = parse_predict(body)
        query = request.query
        assert request.session_id == query.session_id == "[,],"
        assert (query.cache, query.confidence_level, query.full_scale_dbm) == (False, 0.5, -40.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"[]", "the body must be a JSON object"),
        (b"{}", "iq_data: is missing"),
        (_body(iq=1), "iq: unknown; known are iq_data, session_id, cache_enabled"),
        (b'{"iq_data":[[1,2]],"iq_data":[[1,2]]}', "iq_data: stands there twice"),
        (_body(cache_enabled=1), "cache_enabled: must be true or false"),
        (_body(confidence_level=1), "confidence_level: 1 is not between"),
        (_body(full_scale_dbm="0"), "full_scale_dbm: must be a number"),
        (_body(session_id=""), "session_id: must be a string"),
        (_body(session_id={}), "session_id: must not be a list or an object"),
        (_body(iq_data=[[1]]), "iq_data: must be"),
    ],
)
def test_bad_requests(body: bytes, message: str) -> None:
    """Each mistake is named by the front end's own field; in a batch with the item before it."""
    with pytest.raises(BadRequest) as caught:
        parse_predict(body)
    assert str(caught.value).startswith(message)
    if body.startswith(b"{"):
        with pytest.raises(BadRequest) as caught:
            parse_batch(b'{"predictions":[' + _body() + b"," + body + b"]}", 2)
        assert str(caught.value).startswith(f"predictions[1].{message}")


def test_batch() -> None:
    """Items keep their order, and each has options of its own."""
    items = [{"iq_data": [[one, 0]], "confidence_level": one / 10} for one in (1, 2, 3)]
    requests = parse_batch(orjson.dumps({"predictions": items}), 3)
    assert [request.query.iq[0, 0, 0] for request in requests] == [1, 2, 3]
    assert [request.query.confidence_level for request in requests] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "must have one member"),
        (b'{"predictions":[],"x":1}', "must have one member"),
        (b'{"predictions":[]}', "list of 1 to 2"),
        (b'{"predictions":7}', "list of 1 to 2"),
        (b'{"predictions":[1,2,3]}', "list of 1 to 2"),
        (b'{"predictions":[1]}', r"^predictions\[0\]: must be a predict request"),
    ],
)
def test_bad_batches(body: bytes, message: str) -> None:
    """A batch is an object with a list in it, of as many items as are allowed."""
    with pytest.raises(BadRequest, match=message):
        parse_batch(body, 2)


def test_messages_of_the_samples_checks() -> None:
    """The tensor's name becomes the field's, and the item, of which there is one, is left out."""
    message = "iq: item 0, receiver 2 (Torino): sample 7 is not finite"
    assert in_rest_terms(message, "") == "iq_data: receiver 2 (Torino): sample 7 is not finite"
    assert in_rest_terms("iq: too short", "predictions[4].") == "predictions[4].iq_data: too short"
    assert in_rest_terms("other: x", "predictions[4].") == "predictions[4].other: x"


def test_response(described: DescribedModel, arm: Arm) -> None:
    """Every member that the front end's schema requires, in its units: theta and rotation in degrees from east."""
    estimate = Estimate(
        latitude=np.array([45.5]),
        longitude=np.array([8.5]),
        sigma_x_m=np.array([3000.0]),
        sigma_y_m=np.array([1000.0]),
        theta_rad=np.array([np.pi / 6]),
        confidence=np.array([0.75], np.float32),
        degraded=(("power",),),
    )
    localization = Localization(estimate, (("power",),), (False,), arm, described)
    request = PredictRequest(Query(np.zeros(1), confidence_level=0.9), "s")
    answer = json.loads(encode(predict_response(request, localization, 0.0125, NOW)))
    assert answer["position"] == {"latitude": 45.5, "longitude": 8.5}
    uncertainty = answer["uncertainty"]
    assert (uncertainty["sigma_x"], uncertainty["sigma_y"], uncertainty["confidence_interval"]) == (3000, 1000, 0.9)
    assert uncertainty["theta"] == pytest.approx(30.0)
    ellipse = answer["ellipse"]
    assert ellipse["center"] == [45.5, 8.5]
    assert ellipse["rotation_degrees"] == pytest.approx(30.0)
    assert ellipse["bearing_degrees"] == pytest.approx(60.0)
    assert ellipse["semi_major_axis_m"] == pytest.approx(6900.0)
    assert ellipse["semi_minor_axis_m"] == pytest.approx(2300.0)
    expected = {
        "confidence": 0.75, "model_version": "3", "model_digest": "sha256:3", "arm": "stable", "degraded": ["power"],
        "inference_time_ms": 12.5, "timestamp": "2026-01-02T03:04:05Z", "session_id": "s", "_cache_hit": False,
    }  # fmt: skip
    assert {name: answer[name] for name in expected} == expected


def test_model_info(described: DescribedModel, registry: CollectorRegistry) -> None:
    """What is served and by whom, with its receivers, and how it has gone so far."""
    observed = Observed(Metrics(registry))
    arms = Arms(Arm("stable", "http://s", 90, "loc-1"), Arm("canary", "http://c", 10, "loc-2"))
    fresh = json.loads(encode(model_info("localization", described, ("champion",), arms, observed, 7.0)))
    assert (fresh["model_name"], fresh["active_version"], fresh["uptime_s"]) == ("localization", "3", 7.0)
    assert fresh["alias"] == ["champion"]
    assert fresh["receivers"][2]["name"] == "Torino"
    assert fresh["confidence_meaning"] == "P(error < 20 km)"
    assert fresh["samples"] == 640
    assert fresh["arms"] == [
        {"name": "stable", "percent": 90, "revision": "loc-1"},
        {"name": "canary", "percent": 10, "revision": "loc-2"},
    ]
    assert (fresh["cache_hit_rate"], fresh["latency_ms"]) == (None, {"p50": None, "p95": None, "p99": None})
    observed.cache_event(CacheEvent.HIT, 3)
    observed.cache_event(CacheEvent.MISS, 1)
    observed.request("localization", "3", 200, 0.010)
    observed.request("localization", "", 503, 0.020)
    later = json.loads(encode(model_info("localization", described, None, arms, observed, 8.0)))
    assert later["alias"] is None
    assert (later["requests_total"], later["errors_total"], later["cache_hit_rate"]) == (2, 1, 0.75)
    assert later["latency_ms"] == {"p50": 10.0, "p95": 20.0, "p99": 20.0}
