from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from transformer import rest as module
from transformer.errors import PredictorRefused, PredictorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import Array

PREFIX = "/api/v1/inference"
ORIGIN = (b"origin", b"http://localhost:3000")


def _body(iq: Array, **members: Any) -> bytes:  # noqa: ANN401 - any JSON
    return orjson.dumps({"iq_data": iq[0]} | members, option=orjson.OPT_SERIALIZE_NUMPY)


def _batch(*items: bytes) -> bytes:
    return b'{"predictions":[' + b",".join(items) + b"]}"


@pytest.mark.parametrize("path", [f"{PREFIX}/predict", "/predict", f"{PREFIX}/predict/"])
async def test_predict(rest: Any, iq: Array, path: str) -> None:  # noqa: ANN401 - of conftest.py
    """One capture, with and without the prefix; the request's id comes back."""
    answer = await rest.call("POST", path, _body(iq, session_id="s"), (b"x-request-id", b"an-id"))
    assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/json")
    assert answer.headers[b"x-request-id"] == b"an-id"
    assert answer.json["position"] == {"latitude": 45.0, "longitude": 8.0}
    assert (answer.json["session_id"], answer.json["model_version"]) == ("s", "3")


async def test_batch(make_rest: Callable[..., Any], predictor: Any, iq: Array, monkeypatch: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """One answer for each item in their order, and never more of them on their way than are allowed."""
    monkeypatch.setattr(module, "BATCH_IN_FLIGHT", 2)
    rest, busy, most = make_rest(), [0], [0]
    original = predictor.infer

    async def watched(*args: Any) -> Any:  # noqa: ANN401 - those of the original
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        await asyncio.sleep(0.1)
        busy[0] -= 1
        return await original(*args)

    predictor.infer = watched
    items = [
        _body(iq * np.float32(1.0 - 0.01 * index), session_id=str(index), confidence_level=0.1 * (index + 1))
        for index in range(5)
    ]
    answer = await rest.call("POST", f"{PREFIX}/predict/batch", _batch(*items))
    assert answer.status == 200
    assert [one["session_id"] for one in answer.json["predictions"]] == ["0", "1", "2", "3", "4"]
    axes = [one["ellipse"]["semi_major_axis_m"] for one in answer.json["predictions"]]
    assert axes == sorted(axes)
    assert answer.json["batch_size"] == 5
    assert answer.json["total_time_ms"] > 0
    assert most[0] == 2


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (PredictorUnreachable("gone"), 503, b"1"),
        (PredictorRefused("busy", status=503, retry_after_s=9), 503, b"9"),
        (PredictorRefused("failed", status=500), 500, None),
    ],
)
async def test_errors_of_the_predictor(
    rest: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    error: Exception,
    status: int,
    retry_after: bytes | None,
) -> None:
    """They have the same status in a batch as alone."""
    predictor.error = error
    for path, body in (("/predict", _body(iq)), ("/predict/batch", _batch(_body(iq), _body(iq)))):
        answer = await rest.call("POST", path, body)
        assert (answer.status, answer.json["error"]) == (status, str(error))
        assert answer.headers.get(b"retry-after") == retry_after


async def test_bad_samples_are_named_as_fields(rest: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A dead receiver is named by the front end's field, with the item in a batch."""
    dead = iq.copy()
    dead[0, 5] = 0.25
    words = "iq_data: receiver 5 (Genova): is dead, every sample is the same"
    answer = await rest.call("POST", "/predict", _body(dead))
    assert (answer.status, answer.json["error"]) == (422, words)
    answer = await rest.call("POST", "/predict/batch", _batch(_body(iq), _body(dead)))
    assert (answer.status, answer.json["error"]) == (422, f"predictions[1].{words}")
    answer = await rest.call("POST", "/predict", _body(iq[:, :6]))
    assert (answer.status, answer.json["error"][:23]) == (400, "iq_data: the shape must")


async def test_model_info_and_health(rest: Any, predictor: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """What is served, and whether it could answer now; a process that is about to stop is not healthy any more."""
    info = await rest.call("GET", f"{PREFIX}/model/info")
    assert (info.status, info.json["active_version"]) == (200, "3")
    healthy = await rest.call("GET", "/health")
    assert (healthy.status, healthy.json) == (200, {"status": "healthy", "ready": True})
    rest.draining.append(True)
    assert (await rest.call("GET", "/health")).status == 503
    rest.draining.clear()
    predictor.is_ready = False
    assert (await rest.call("GET", "/health")).json == {"status": "unhealthy", "ready": False}
    predictor.metadata_error = PredictorUnreachable("gone")


async def test_aliases_of_the_registry(rest: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """They are told as they are now, those of the active version; a registry that is away makes them unknown."""
    assert (await rest.call("GET", "/model/info")).json["alias"] is None
    rest.registered = {"3": ("blue", "champion"), "4": ("challenger",)}
    assert (await rest.call("GET", "/model/info")).json["alias"] == ["blue", "champion"]
    rest.registered = {"3": ()}
    assert (await rest.call("GET", "/model/info")).json["alias"] == []


async def test_no_wait_for_the_registry_becomes_an_error(rest: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """However short the client's time is, a registry that hangs takes only a part of it."""
    rest.registry_s = 30.0
    info = await rest.call("GET", "/model/info", b"", (b"x-request-timeout-ms", b"200"))
    assert (info.status, info.json["alias"]) == (200, None)


async def test_everything_else_goes_on(rest: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Other paths and other kinds of connections are not this application's."""
    await rest.call("GET", "/v2")
    await rest.call("GET", "/")
    await rest.app({"type": "lifespan"}, None, None)
    assert [scope["type"] for scope in rest.foreign] == ["http", "http", "lifespan"]


async def test_other_methods(rest: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """405 names the methods that there are; what is read by GET may be asked for by HEAD, as load balancers do."""
    answer = await rest.call("GET", "/predict")
    assert (answer.status, answer.headers[b"allow"]) == (405, b"POST, OPTIONS")
    answer = await rest.call("POST", "/health")
    assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD, OPTIONS")
    assert (await rest.call("HEAD", "/health")).status == 200


async def test_limits(make_rest: Callable[..., Any]) -> None:
    """Bodies and batches have a largest size; a refused body's connection is closed."""
    rest = make_rest(max_json_bytes=100_000, max_batch=1)
    answer = await rest.call("POST", "/predict", b"{}", (b"content-length", b"100001"))
    assert (answer.status, answer.headers[b"connection"]) == (413, b"close")
    answer = await rest.call("POST", "/predict/batch", b'{"predictions":[{},{}]}')
    assert (answer.status, answer.json["error"]) == (400, "predictions: must be a list of 1 to 1 predict requests")


async def test_what_a_batch_is_counted_for(rest: Any, counted: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A good answer counts for the version that gave it, a batch's too."""
    await rest.call("POST", "/predict", _body(iq))
    await rest.call("POST", "/predict/batch", _batch(_body(iq), _body(iq)))
    assert counted("requests", model="localization", version="3", code="200") == 2


async def test_deadlines(rest: Any, predictor: Any, counted: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A request that takes longer than its client allows is 504, and not counted as the service's failure."""
    predictor.hold = asyncio.Event()
    answer = await rest.call("POST", "/predict", _body(iq), (b"x-request-timeout-ms", b"50"))
    assert (answer.status, answer.json["error"]) == (504, "the request's time budget is used up")
    assert counted("requests", model="localization", version="", code="499") == 1
    answer = await rest.call("POST", "/predict", _body(iq), (b"x-request-timeout-ms", b"soon"))
    assert answer.status == 400
    predictor.hold.set()


@pytest.mark.parametrize("error", [RuntimeError("secret"), TimeoutError("secret")])
async def test_faults_of_the_program(
    rest: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What nobody has foreseen is 500 without its words, alone and in a batch; the log has the story."""
    predictor.error = error
    for path, body in (("/predict", _body(iq)), ("/predict/batch", _batch(_body(iq)))):
        with caplog.at_level(logging.ERROR):
            answer = await rest.call("POST", path, body)
        assert (answer.status, answer.json) == (500, {"error": "internal error"})
        assert "secret" in caplog.text
        caplog.clear()


async def test_a_client_that_leaves_gets_no_answer(rest: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Nobody is left to answer when the body never became complete."""
    assert (await rest.call("POST", "/predict", b"{", gone=True)).status == 0


async def test_cors(rest: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Allowed origins may call and read, with errors too; any other gets no permission (Fetch standard §3.2)."""
    preflight = await rest.call("OPTIONS", f"{PREFIX}/predict", b"", ORIGIN)
    assert preflight.status == 204
    assert preflight.headers[b"access-control-allow-origin"] == ORIGIN[1]
    assert b"POST" in preflight.headers[b"access-control-allow-methods"]
    assert b"content-type" in preflight.headers[b"access-control-allow-headers"]
    for body in (_body(iq), b"{"):
        answer = await rest.call("POST", "/predict", body, ORIGIN)
        assert answer.headers[b"access-control-allow-origin"] == ORIGIN[1]
        assert answer.headers[b"vary"] == b"Origin"
    stranger = await rest.call("OPTIONS", "/predict", b"", (b"origin", b"http://evil.example"))
    assert b"access-control-allow-origin" not in stranger.headers
    assert stranger.headers[b"vary"] == b"Origin"
