from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from oip.codec import decode_request, encode_response
from oip.errors import BadUpstream
from oip.messages import CallContext, InferRequest, InferResponse, Tensor
from oip.metadata import encode_model_metadata
from transformer.errors import AnswerCutShort, PredictorRefused, PredictorSilent, PredictorUnreachable
from transformer.predictor_client import PredictorClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SIZE = "Inference-Header-Content-Length"
REQUEST = InferRequest((Tensor("log_mel", np.arange(6, dtype=np.float32).reshape(1, 6)),), binary_output=True)


@asynccontextmanager
async def _serving(
    handler: Handler, model_name: str = "m", metadata_timeout_s: float = 10.0
) -> AsyncIterator[tuple[PredictorClient, str]]:
    """A client, and the address of an HTTP server that answers everything by the handler."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    client = PredictorClient(model_name, connect_timeout_s=10.0, metadata_timeout_s=metadata_timeout_s)
    async with TestServer(application) as server:
        yield client, str(server.make_url("")).rstrip("/")
        await client.close()


def _answering(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={key.replace("_", "-"): v for key, v in headers.items()})

    return handle


async def test_one_exchange(context: CallContext) -> None:
    """Binary there and back, with the deadline, the request's id and its trace on the way, on the model's own path."""
    seen: list[web.Request] = []
    inputs: list[np.ndarray[Any, Any]] = []

    async def echo(request: web.Request) -> web.Response:
        seen.append(request)
        message = decode_request(await request.read(), int(request.headers[SIZE]))
        inputs.append(message.inputs[0].array)
        encoded = encode_response(InferResponse("m", (Tensor("y", message.inputs[0].array),), "7"), message)
        return web.Response(body=encoded.body, headers={SIZE: str(encoded.json_size)})

    traced = CallContext(context.deadline_s, "an-id", traceparent="00-1-2-01", tracestate="a=b")
    async with _serving(echo, "a b") as (client, url):
        response = await client.infer(url, REQUEST, traced)
        await client.infer(url, REQUEST, context)
    assert response.model_version == "7"
    assert response.output("y").array.tobytes() == REQUEST.inputs[0].array.tobytes() == inputs[0].tobytes()
    headers = seen[0].headers
    assert seen[0].raw_path == "/v2/models/a%20b/infer"
    assert (headers["x-request-id"], headers["traceparent"], headers["tracestate"]) == ("an-id", "00-1-2-01", "a=b")
    assert 25_000 < int(headers["x-request-timeout-ms"]) <= 30_000
    assert "traceparent" not in seen[1].headers
    assert seen[0].transport is seen[1].transport  # one connection serves both


async def test_metadata_and_readiness(predictor: Any) -> None:  # noqa: ANN401 - of conftest.py
    """Metadata is read as published; readiness is the status alone."""
    body = encode_model_metadata(predictor.described())
    async with _serving(_answering(body=body)) as (client, url):
        assert (await client.metadata(url)).parameters["contract"] == predictor.described().parameters["contract"]
        assert await client.ready(url)
    async with _serving(_answering(503)) as (client, url):
        assert not await client.ready(url)


@pytest.mark.parametrize(
    ("status", "body", "headers", "message", "retry_after_s"),
    [
        (409, b'{"error":"other contract","contract_digest":"sha256:1"}', {}, "other contract", None),
        (503, b'{"error":"busy"}', {"Retry_After": "4"}, "busy", 4),
        (503, b'{"error":"busy"}', {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "busy", None),
        (502, b"<html>secret</html>", {}, "status 502", None),
        (302, b"", {"Location": "/there"}, "status 302", None),
        (429, b"\xff", {}, "status 429", None),
    ],
)
async def test_refusals(
    context: CallContext, status: int, body: bytes, headers: dict[str, str], message: str, retry_after_s: int | None
) -> None:
    """An error keeps status, words, details and Retry-After; of a proxy's page only the status is told."""
    async with _serving(_answering(status, body, **headers)) as (client, url):
        with pytest.raises(PredictorRefused, match=message) as caught:
            await client.infer(url, REQUEST, context)
        with pytest.raises(PredictorRefused, match=message):
            await client.metadata(url)
    assert (caught.value.status, caught.value.retry_after_s) == (status, retry_after_s)
    assert caught.value.details == ({"contract_digest": "sha256:1"} if status == 409 else {})


@pytest.mark.parametrize(("body", "size"), [(b"", ""), (b"{}", ""), (b"[]", "2"), (b"{}", "99"), (b"{}", "x")])
async def test_answers_that_are_no_answers(context: CallContext, body: bytes, size: str) -> None:
    """A body that is not of the protocol is an upstream error."""
    headers = {"Inference_Header_Content_Length": size} if size else {}
    async with _serving(_answering(body=body, **headers)) as (client, url):
        with pytest.raises(BadUpstream):
            await client.infer(url, REQUEST, context)
        with pytest.raises(BadUpstream):
            await client.metadata(url)


async def test_nobody_there(context: CallContext) -> None:
    """A closed port is unreachable at once, and not ready."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = PredictorClient("m", connect_timeout_s=10.0, metadata_timeout_s=10.0)
        with pytest.raises(PredictorUnreachable, match="cannot be reached"):
            await client.infer(url, REQUEST, context)
        assert not await client.ready(url)
        await client.close()
        await client.close()


async def test_a_connection_that_is_not_opened(context: CallContext, swallowing: str) -> None:
    """A host that swallows packets is unreachable after the connection's own timeout, long before the deadline."""
    client = PredictorClient("m", connect_timeout_s=0.1, metadata_timeout_s=5.0)
    started_s = time.monotonic()
    with pytest.raises(PredictorUnreachable):
        await client.infer(swallowing, REQUEST, context)
    assert time.monotonic() - started_s < 10.0
    await client.close()


async def test_headers_carry_no_lines(context: CallContext) -> None:
    """What a client says of itself cannot become a header of its own on the way to the predictor."""
    seen: list[web.Request] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=503)

    forged = CallContext(context.deadline_s, "id\r\nx-forged: 1", traceparent="a\nb", tracestate="é\u2028")
    async with _serving(note) as (client, url):
        with pytest.raises(PredictorRefused):
            await client.infer(url, REQUEST, forged)
    assert seen[0].headers["x-request-id"] == "idx-forged: 1"
    assert seen[0].headers["traceparent"] == "ab"
    assert "x-forged" not in seen[0].headers


async def test_a_connection_that_dies(context: CallContext) -> None:
    """A predictor that goes away within the exchange is unreachable too."""

    async def die(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with _serving(die) as (client, url):
        with pytest.raises(PredictorUnreachable):
            await client.infer(url, REQUEST, context)


@pytest.mark.parametrize(
    ("words", "raised", "message"),
    [
        (b"", PredictorUnreachable, "died before its answer"),
        (b"HTTP/1.1 200", AnswerCutShort, "within its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", AnswerCutShort, "within its answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", AnswerCutShort, "no answer"),
    ],
)
async def test_last_words(context: CallContext, words: bytes, raised: type[Exception], message: str) -> None:
    """A death before the first byte may be repeated; one behind it is an answer cut short, and so is no HTTP."""

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"log_mel")
        writer.write(words)
        writer.close()

    client = PredictorClient("m", connect_timeout_s=10.0, metadata_timeout_s=10.0)
    async with await asyncio.start_server(die, "127.0.0.1", 0) as server:
        with pytest.raises(raised, match=message) as caught:
            await client.infer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", REQUEST, context)
    assert type(caught.value) is raised
    await client.close()


async def test_deadlines(context: CallContext) -> None:
    """An answer that takes longer than is left is not waited for; with nothing left nobody is called."""
    calls, ended = [], asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        calls.append(request)
        await ended.wait()
        return web.Response()

    async with _serving(slow, metadata_timeout_s=0.5) as (client, url):
        with pytest.raises(PredictorSilent, match="did not answer within"):
            await client.infer(url, REQUEST, CallContext(time.monotonic() + 0.5, context.request_id))
        with pytest.raises(PredictorSilent, match="no time is left"):
            await client.infer(url, REQUEST, CallContext(time.monotonic() - 0.1, context.request_id))
        assert not await client.ready(url)
        ended.set()
    assert len(calls) == 2
