from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip.asgi import OpenInferenceApplication
from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

INFER = "/v2/models/echo/infer"
X = Tensor("x", np.array([[1.5, 2.5]], "<f4"))
PLAIN = InferRequest((X,), id="7")


def _post(request: InferRequest, *, binary: bool = True) -> dict[str, Any]:
    encoded = encode_request(request, binary=binary)
    size = encoded.json_size
    headers = () if size is None else ((b"inference-header-content-length", b"%d" % size),)
    return {"body": encoded.body, "headers": headers}


def _mode(mode: str, **parameters: float) -> InferRequest:
    return InferRequest((X,), parameters={"mode": mode, **parameters})


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("path", [INFER, "/v2/models/echo/versions/1/infer/"])
async def test_inference(service: Any, path: str, *, binary: bool) -> None:  # noqa: ANN401 - the fixture's class
    """Both encodings, both ways, on both paths; the headers say which it is."""
    answer = await service.call("POST", path, **_post(InferRequest((X,), "7", binary_output=binary), binary=binary))
    assert answer.status == 200
    assert answer.headers[b"content-type"] == (b"application/octet-stream" if binary else b"application/json")
    assert (answer.json_size is not None) is binary
    assert int(answer.headers[b"content-length"]) == len(answer.body)
    response = decode_response(answer.body, answer.json_size)
    assert (response.model_name, response.model_version, response.id) == ("echo", "1", "7")
    assert response.output("x").array.tolist() == [[1.5, 2.5]]
    assert service.observed == [("echo", "1", 200)]


async def test_identity_is_echoed(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """The request id comes back as a header, and the backend sees it with the deadline and the trace."""
    post = _post(PLAIN)
    headers = (*post["headers"], (b"x-request-id", b"r-1"), (b"traceparent", b"t"))
    answer = await service.call("POST", INFER, post["body"], headers)
    assert answer.headers[b"x-request-id"] == b"r-1"
    assert (service.backend.contexts[0].request_id, service.backend.contexts[0].traceparent) == ("r-1", "t")


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v2", {"name": "heimdall", "version": "0", "extensions": ["binary_tensor_data"]}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/echo/ready", {"name": "echo", "ready": True}),
        ("/v2/models/echo/versions/1/ready", {"name": "echo", "ready": True}),
    ],
)
async def test_descriptions(service: Any, path: str, members: object) -> None:  # noqa: ANN401 - the fixture's class
    """The endpoints without tensors answer JSON with its length."""
    answer = await service.call("GET", path)
    assert (answer.status, json.loads(answer.body)) == (200, members)
    assert int(answer.headers[b"content-length"]) == len(answer.body)


async def test_model_metadata(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """The backend's description arrives whole."""
    members = json.loads((await service.call("GET", "/v2/models/echo")).body)
    assert members["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert members["parameters"] == {"model_digest": "sha256:0"}


@pytest.mark.parametrize("reason", ["not ready", "draining"])
async def test_not_ready(service: Any, reason: str) -> None:  # noqa: ANN401 - the fixture's class
    """Readiness is 503 while a model is not ready or the process drains; it stays alive and answers."""
    if reason == "draining":
        service.draining.append(True)
    else:
        service.backend.ready = False
    assert (await service.call("GET", "/v2/health/ready")).status == 503
    assert (await service.call("GET", "/v2/models/echo/ready")).status == 503
    assert (await service.call("GET", "/v2/health/live")).status == 200
    assert (await service.call("POST", INFER, **_post(PLAIN))).status == 200


@pytest.mark.parametrize(
    "path", ["/v2/nope", "/v2/models/none", "/v2/models/echo/versions/9/ready", "/v2/models/none/ready"]
)
async def test_not_found(service: Any, path: str) -> None:  # noqa: ANN401 - the fixture's class
    """Unknown paths, models and versions are 404 with an error object."""
    answer = await service.call("GET", path)
    assert answer.status == 404
    assert list(json.loads(answer.body)) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", INFER, b"POST"), ("POST", "/v2", b"GET, HEAD"), ("DELETE", "/v2/models/echo", b"GET, HEAD")],
)
async def test_wrong_method(service: Any, method: str, path: str, allow: bytes) -> None:  # noqa: ANN401 - the fixture's class
    """RFC 9110 section 15.5.6: 405 names the methods that are allowed."""
    answer = await service.call(method, path)
    assert (answer.status, answer.headers[b"allow"]) == (405, allow)
    assert "error" in json.loads(answer.body)


@pytest.mark.parametrize("path", ["/", "/v1/models/echo", "/metrics"])
async def test_foreign_paths(service: Any, path: str) -> None:  # noqa: ANN401 - the fixture's class
    """What is not the protocol's goes to the application behind."""
    await service.call("GET", path)
    assert [scope["path"] for scope in service.foreign] == [path]


async def test_foreign_scopes(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """Lifespan is the business of the application behind."""
    await service.app({"type": "lifespan"}, None, None)
    assert service.foreign == [{"type": "lifespan"}]


async def test_scope_without_raw_path(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """The ASGI member `raw_path` is optional."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await service.app({"type": "http", "method": "GET", "path": "/v2/health/live", "headers": []}, None, send)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ((), b"{", 400),
        (((b"inference-header-content-length", b"x"),), b"{}", 400),
        (((b"inference-header-content-length", b"-1"),), b"{}", 400),
        (((b"inference-header-content-length", b"99"),), b"{}", 400),
        (((b"x-request-timeout-ms", b"soon"),), b"{}", 400),
        (((b"content-encoding", b"br"),), b"{}", 415),
        (((b"content-length", b"99999999999"),), b"{}", 413),
    ],
)
async def test_client_errors(service: Any, headers: Any, body: bytes, status: int) -> None:  # noqa: ANN401 - short table
    """Wrong requests get an error object, and an unknown label is never invented for them."""
    answer = await service.call("POST", INFER, body, headers)
    assert answer.status == status
    assert list(json.loads(answer.body)) == ["error"]
    assert service.observed == [("", "", status)]


async def test_refused_bodies_close_the_connection(make_service: Callable[..., Any]) -> None:
    """A body that is not read to its end must not be taken for the next request."""
    service = make_service(max_body_bytes=10)
    answer = await service.call("POST", INFER, chunks=[b"x" * 11, b"y", b"z"])
    assert (answer.status, answer.headers[b"connection"]) == (413, b"close")
    answer = await service.call("POST", INFER, b"x" * 11)
    assert (answer.status, b"connection" in answer.headers) == (413, False)


@pytest.mark.parametrize("max_body_bytes", [999, 1000])
async def test_json_has_its_own_limit(make_service: Callable[..., Any], max_body_bytes: int) -> None:
    """JSON costs many times its size in memory: over its limit it is 413, which says that binary tensors would fit."""
    service = make_service(max_body_bytes=max_body_bytes, max_json_bytes=200)
    small, large = (InferRequest((Tensor("x", np.zeros(size, "<f4")),)) for size in (10, 90))
    assert (await service.call("POST", INFER, **_post(small, binary=False))).status == 200
    assert (await service.call("POST", INFER, **_post(large))).status == 200
    answer = await service.call("POST", INFER, **_post(large, binary=False))
    assert (answer.status, b"connection" in answer.headers) == (413, False)
    assert f"larger than 200 bytes; send the tensors as binary data behind it (up to {max_body_bytes}" in json.loads(
        answer.body
    ).get("error")
    assert service.observed[-1] == ("echo", "", 413)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (((b"inference-header-content-length", b"201"),), 413),
        (((b"content-length", b"201"),), 413),
        (((b"inference-header-content-length", b"200"), (b"content-length", b"1000")), 400),
        (((b"inference-header-content-length", b"200"), (b"content-length", b"1001")), 413),
    ],
)
async def test_json_is_refused_unread(make_service: Callable[..., Any], headers: Any, status: int) -> None:  # noqa: ANN401 - short table
    """The headers alone decide; what is within the limits is read and then judged (here: it is no JSON)."""
    service = make_service(max_body_bytes=1000, max_json_bytes=200)
    answer = await service.call("POST", INFER, headers=headers, chunks=[b"x" * 200, b"y"])
    assert (answer.status, answer.headers.get(b"connection")) == (status, b"close" if status == 413 else None)
    assert ("as binary data" in json.loads(answer.body)["error"]) is (b"201" in dict(headers).values())


async def test_a_json_limit_beyond_the_bodys_is_none(make_service: Callable[..., Any]) -> None:
    """Where the body's limit is the smaller one, it alone counts, and no binary tensors are advised."""
    service = make_service(max_body_bytes=200, max_json_bytes=1000)
    headers = ((b"inference-header-content-length", b"1001"),)
    assert (await service.call("POST", INFER, b"{}", headers)).status == 400
    answer = await service.call("POST", INFER, b" " * 201)
    assert (answer.status, "binary" in json.loads(answer.body)["error"]) == (413, False)


async def test_the_json_limit_holds_after_inflating(make_service: Callable[..., Any]) -> None:
    """A compressed body is measured by what it unfolds to; the smaller limit of the two gives the message."""
    post = {"body": gzip.compress(b" " * 300), "headers": ((b"content-encoding", b"gzip"),)}
    for json_bytes, body_bytes, hint in ((200, 1000, True), (1000, 200, False), (200, 200, False)):
        service = make_service(max_body_bytes=body_bytes, max_json_bytes=json_bytes)
        answer = await service.call("POST", INFER, **post)
        assert answer.status == 413
        assert ("as binary data" in json.loads(answer.body)["error"]) is hint


async def test_gzip(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """The header's JSON length counts decompressed bytes."""
    post = _post(PLAIN)
    headers = (*post["headers"], (b"content-encoding", b"gzip"))
    assert (await service.call("POST", INFER, gzip.compress(post["body"]), headers)).status == 200


async def test_backend_errors_keep_their_status(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """503 travels with Retry-After; a known model keeps its label."""
    await service.call("POST", INFER, **_post(PLAIN))
    answer = await service.call("POST", INFER, **_post(_mode("busy")))
    assert (answer.status, answer.headers[b"retry-after"]) == (503, b"2")
    assert service.observed[-1] == ("echo", "", 503)


async def test_unknown_model(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """404 for inference, too; its name is not passed to the observer."""
    answer = await service.call("POST", "/v2/models/nope/infer", **_post(PLAIN))
    assert answer.status == 404
    assert service.observed == [("", "", 404)]


@pytest.mark.parametrize("mode", ["crash", "own timeout"])
async def test_unexpected_errors_are_hidden(service: Any, caplog: pytest.LogCaptureFixture, mode: str) -> None:  # noqa: ANN401 - the fixture's class
    """500 with the request id and no inner text; the log has both. A timeout inside is not the request's own."""
    with caplog.at_level(logging.ERROR):
        answer = await service.call("POST", INFER, **_post(_mode(mode)))
    members = json.loads(answer.body)
    assert (answer.status, members["error"]) == (500, "internal error")
    assert b"secret" not in answer.body
    assert members["request_id"] in caplog.text
    assert "secret" in caplog.text


async def test_deadline(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """The client's budget ends a slow backend with 504, which is not counted as the service's failure."""
    post = _post(_mode("slow", seconds=30))
    headers = (*post["headers"], (b"x-request-timeout-ms", b"50"))
    async with asyncio.timeout(5):
        answer = await service.call("POST", INFER, post["body"], headers)
    assert answer.status == 504
    assert service.observed == [("", "", 499)]


async def test_deadline_of_the_service(make_service: Callable[..., Any]) -> None:
    """The service's own budget ends a slow backend with 504, and that is counted."""
    service = make_service(default_timeout_s=0.3)
    assert (await service.call("POST", INFER, **_post(_mode("slow", seconds=30)))).status == 504
    assert service.observed == [("", "", 504)]


async def test_deadline_of_a_description(make_service: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A readiness probe that asks further on does not hang, and a broken one is a 500."""
    service = make_service(default_timeout_s=0.05)

    async def hang() -> bool:
        await asyncio.sleep(30)
        return True

    async def crash() -> bool:
        raise ValueError("secret")

    monkeypatch.setattr(service.backend, "server_ready", hang)
    assert (await service.call("GET", "/v2/health/ready")).status == 504
    monkeypatch.setattr(service.backend, "server_ready", crash)
    assert (await service.call("GET", "/v2/health/ready")).status == 500


async def test_client_gone(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """Nobody is answered who left before the request was complete."""
    answer = await service.call("POST", INFER, chunks=[b"{"], disconnect=True)
    assert answer.messages == []
    assert service.observed == [("", "", 499)]


async def test_client_gone_while_it_waits(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """Work that is watched fails as soon as its client has gone, and nobody is answered."""
    async with asyncio.timeout(5):
        answer = await service.call("POST", INFER, **_post(_mode("queued")))
    assert answer.messages == []
    assert service.observed == [("", "", 499)]
    assert service.backend.place.done()


async def test_what_a_client_leaves_behind(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - the fixture's class
    """The tensors of a client that has gone are freed with its request, not by the garbage collector some day."""
    arrays: list[weakref.ref[Any]] = []
    infer = service.backend.infer

    async def noticed(name: str, version: str | None, request: InferRequest, context: Any) -> Any:  # noqa: ANN401 - passed on
        arrays.append(weakref.ref(request.inputs[0].array))
        return await infer(name, version, request, context)

    monkeypatch.setattr(service.backend, "infer", noticed)
    gc.disable()
    try:
        await service.call("POST", INFER, **_post(_mode("queued")))
        assert [array() for array in arrays] == [None]
    finally:
        gc.enable()


async def test_watched_work_that_is_done(service: Any, asgi_call: Callable[..., Any]) -> None:  # noqa: ANN401 - the fixture's class
    """Watching ends with the work: what comes from the client later is not waited for."""
    watching: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - an ASGI application
        async def patient() -> Any:  # noqa: ANN401 - a message
            if (task := asyncio.current_task()) is not None and task is not caller:
                watching.set_result(task)
                await asyncio.sleep(30)
            return await receive()

        caller = asyncio.current_task()
        await service.app(scope, patient, send)

    asking = asyncio.ensure_future(asgi_call(app, "POST", INFER, **_post(_mode("queued"))))
    async with asyncio.timeout(5):
        watcher = await watching
        service.backend.place.set_result(None)
        assert (await asking).status == 200
        with pytest.raises(asyncio.CancelledError):
            await watcher


async def test_options_are_optional(service: Any, asgi_call: Callable[..., Any]) -> None:  # noqa: ANN401 - the fixture's class
    """Backend and fallback are enough: then nobody observes and nothing drains."""
    app = OpenInferenceApplication(service.backend, service.app)
    assert (await asgi_call(app, "POST", INFER, **_post(PLAIN))).status == 200
    assert (await asgi_call(app, "GET", "/v2/health/ready")).status == 200


async def test_large_bodies(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """Bodies above the threshold take the other way and mean the same."""
    x = Tensor("x", np.arange(200_000, dtype="<f4"))
    for binary in (True, False):
        request = InferRequest((x,), outputs=(RequestedOutput("x", binary),))
        answer = await service.call("POST", INFER, **_post(request, binary=binary))
        assert np.array_equal(decode_response(answer.body, answer.json_size).outputs[0].array, x.array)
