from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from oip import http_connection
from oip.http_connection import FIRST_READ_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, HttpConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oip.http import Receive, Scope, Send

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Keep it."""
        self.written += data

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with method, path, body and how many headers there were."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = [scope["method"], scope["path"], body.decode(), len(scope["headers"])]
    text = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, later."""
    await asyncio.sleep(0.6)
    await _echo(scope, receive, send)


async def _hasty(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"[]"})


async def _exchange(
    chunks: Sequence[bytes],
    app: Any = _echo,  # noqa: ANN401 - an ASGI application
    pause_s: float = 0.0,
    wait_s: float = 0.0,
    *,
    in_turn: bool = False,
) -> Wire:
    """Feed the chunks to a new connection, each after the last was dealt with (`in_turn`: answered) and a pause."""
    config = uvicorn.Config(app, http=HttpConnection, ws="none", log_config=None, access_log=False, lifespan="off")
    config.load()
    wire = Wire()
    connection = HttpConnection(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    for chunk in chunks:
        if not wire.closed:
            connection.data_received(chunk)
        await asyncio.sleep(pause_s)
        while in_turn and connection.tasks:
            await asyncio.wait(connection.tasks)
    await asyncio.sleep(wait_s)
    while connection.tasks and not wire.closed:
        await asyncio.wait(connection.tasks)
    tasks = list(connection.tasks)
    connection.connection_lost(ConnectionResetError())
    await asyncio.gather(*tasks)
    return wire


def _post(body: bytes, headers: bytes = b"", path: bytes = b"/p") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path, headers, len(body), body)


def _refusal(wire: Wire, status: bytes) -> str:
    """The message of the error that is all that was answered, with this status."""
    assert wire.written.startswith(b"HTTP/1.1 " + status)
    return str(json.loads(wire.written.split(b"\r\n\r\n", 1)[1])["error"])


def _bodies(written: bytes) -> list[list[Any]]:
    parts = written.split(b"HTTP/1.1 ")[1:]
    assert all(part.startswith(b"200") for part in parts)
    return [json.loads(part.split(b"\r\n\r\n", 1)[1]) for part in parts]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=6), upgrade=st.booleans())
async def test_requests_however_they_are_cut(*, cuts: list[int], upgrade: bool) -> None:
    """Three requests in a row mean the same in whatever pieces they come, with and without an offer to upgrade."""
    offer = UPGRADE if upgrade else b""
    data = _post(b"first", offer) + b"GET /q?a HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n" + _post(b"third", offer)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    wire = await _exchange([data[a:b] for a, b in itertools.pairwise(edges) if b > a])
    bodies = _bodies(wire.written)
    assert [body[:3] for body in bodies] == [["POST", "/p", "first"], ["GET", "/q", ""], ["POST", "/p", "third"]]
    assert not wire.closed


async def test_many_offers_at_once() -> None:
    """Thousands of requests in one read, each with an offer, are answered one after the other."""
    wire = await _exchange([_post(b"a", UPGRADE) * 2000])
    assert len(_bodies(wire.written)) == 2000


async def test_a_chunked_body_behind_an_offer_to_upgrade() -> None:
    """The headers other than the offer stay: the body is still read as chunked."""
    head = b"POST /p HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n"
    wire = await _exchange([head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"])
    assert _bodies(wire.written) == [["POST", "/p", "abcde", 3]]


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"CONNECT x.y:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET v2 HTTP/1.1\r\nHost: x\r\n\r\n"],
)
async def test_what_is_no_request(data: bytes) -> None:
    """400 with an error object, and the connection is closed."""
    wire = await _exchange([data])
    assert wire.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert list(json.loads(wire.written.split(b"\r\n\r\n", 1)[1])) == ["error"]
    assert wire.closed


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\na: ", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000])
async def test_an_endless_head(start: bytes) -> None:
    """431 (RFC 6585 section 5) soon after the limit, be it target, value or number of headers that has no end."""
    wire = await _exchange([start, *[b"x" * 16384] * 20])
    assert re.search(f"{MAX_HEAD_BYTES} bytes|{MAX_HEADERS} headers", _refusal(wire, b"431 Request Header Fields Too"))
    assert wire.closed


@pytest.mark.parametrize("target", [b"/", b"/" + b"x" * MAX_HEAD_BYTES])
@pytest.mark.parametrize("value", [b"a", b"a" * MAX_HEAD_BYTES])
async def test_a_head_in_one_read(target: bytes, value: bytes) -> None:
    """The limit of size holds for a head that comes at once too, target and values together."""
    wire = await _exchange([b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, value)])
    if len(target) + len(value) < MAX_HEAD_BYTES:
        assert len(_bodies(wire.written)) == 1
    else:
        assert str(MAX_HEAD_BYTES) in _refusal(wire, b"431 Request Header Fields Too")


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"])
async def test_the_number_of_headers(start: bytes) -> None:
    """As many as allowed are taken, in head and trailers together; with one more nothing reaches the application."""
    inside = start.count(b": ")
    wire = await _exchange([start + b"a: b\r\n" * (MAX_HEADERS - inside) + b"\r\n"])
    assert len(_bodies(wire.written)) == 1
    wire = await _exchange([start + b"a: b\r\n" * (MAX_HEADERS - inside + 1) + b"\r\n"])
    assert wire.closed
    if not inside:
        assert str(MAX_HEADERS) in _refusal(wire, b"431 Request Header Fields Too")


@pytest.mark.parametrize("first", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n", _post(b"done") + b"GET /"])
async def test_a_head_that_never_ends(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a time limit, at the start of a connection and behind an answer, however many bytes still drip in."""
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT_S", 0.2)
    wire = await _exchange([first, *[b"x"] * 12] if first else [], pause_s=0.05, wait_s=0.2)
    assert wire.closed
    assert (b"HTTP/1.1 408 Request Timeout" in wire.written) == bool(first)


@pytest.mark.parametrize("size", [1000, 4 * FIRST_READ_BYTES])
async def test_a_body_that_drips_behind_its_answer(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Nobody waits for it any more, so that the next head's time limit ends it."""
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT_S", 0.2)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    wire = await _exchange([head, *[b"x"] * 12], _hasty, pause_s=0.05)
    assert wire.closed


async def test_a_slow_answer_is_no_late_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a request is being answered its own time budget counts; afterwards the connection lives on."""
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT_S", 0.5)
    wire = await _exchange([_post(b"first"), _post(b"second")], _slow, in_turn=True)
    assert len(_bodies(wire.written)) == 2
    assert not wire.closed


@pytest.mark.parametrize("reads", [True, False])
async def test_an_answer_that_is_not_taken(monkeypatch: pytest.MonkeyPatch, *, reads: bool) -> None:
    """The connection of a client that does not read breaks in time; one that reads has its whole answer."""
    monkeypatch.setattr(http_connection, "SEND_TIMEOUT_S", 5.0 if reads else 0.3)
    size, ended = 32 * 1024 * 1024, asyncio.Event()

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    config = uvicorn.Config(large, http=HttpConnection, ws="none", log_config=None, access_log=False, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpConnection(config, ServerState(), {}, loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    if reads:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(await reader.readexactly(size)) == size
    async with asyncio.timeout(15):
        await ended.wait()
    if not reads:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(size)
    writer.transport.abort()
    server.close()
    await server.wait_closed()


async def test_a_long_body_is_no_long_head() -> None:
    """Bodies, and many requests in a row, do not count."""
    body = b"x" * 3 * MAX_HEAD_BYTES
    data = _post(body)
    wire = await _exchange([data[at : at + 30_000] for at in range(0, len(data), 30_000)])
    assert _bodies(wire.written)[0][2] == body.decode()
    wire = await _exchange([_post(b"x" * 1000)] * 100)
    assert len(_bodies(wire.written)) == 100


async def test_endless_trailers() -> None:
    """Behind a chunked body headers count again; the request in progress ends without an answer."""
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    wire = await _exchange([head, *[b"a: " + b"x" * 16384 + b"\r\n"] * 10])
    assert (wire.written, wire.closed) == (b"", True)
