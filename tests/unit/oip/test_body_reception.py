"""Requests on one connection, however the network cuts them, beside uvicorn's own protocol that gets them at once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from oip import http_connection
from oip.errors import PayloadTooLarge
from oip.http import ClientDisconnected, read_body, refuse_body, send_response
from oip.http_connection import HttpConnection
from oip.read_buffer import ReadBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from oip.http import ASGIApp, Receive, Scope, Send

FIRST_READ, MOST_UNREAD = 256, 2048
"""In the place of 16 KiB and 1 MiB, so that a thousand connections take seconds."""

SIZES = st.sampled_from(
    [0, 1, 100, *(edge + step for edge in (FIRST_READ, 3 * FIRST_READ, MOST_UNREAD) for step in (-1, 0, 1))]
)
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.fixture(autouse=True, scope="module")
def _small_thresholds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_connection, "FIRST_READ_BYTES", FIRST_READ)
        patch.setattr(http_connection, "MAX_UNREAD_BYTES", MOST_UNREAD)
        yield


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and delivers nothing while it is paused or after it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Keep it, unless it comes too late."""
        if not self.closed:
            self.written += data

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Remember it."""
        self.paused = True

    def resume_reading(self) -> None:
        """Forget it."""
        self.paused = False


@dataclass(frozen=True)
class Posted:
    """A request; the application does what its path says."""

    path: str
    size: int
    chunked: bool = False
    offers: bool = False
    closes: bool = False

    def text(self, *, with_offer: bool = True) -> bytes:
        """As it travels."""
        body = self.body
        head = f"POST /{self.path} HTTP/1.1\r\nHost: x\r\n".encode()
        if self.closes:
            head += b"Connection: close\r\n"
        elif self.offers and with_offer:
            head += OFFER
        if self.chunked:
            parts = [body[at : at + 300] for at in range(0, len(body), 300)]
            coded = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
        return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    @property
    def body(self) -> bytes:
        """No two parts of it are equal, and it looks like the beginning of requests."""
        return b"".join(b"GET /%04d" % number for number in range(self.size // 9 + 1))[: self.size]


POSTS = st.builds(Posted, st.sampled_from(["whole", "late", "never", "begin"]), SIZES, st.booleans(), st.booleans())


class Application:
    """Answers with how much came and what it was; counts the clients that left before."""

    def __init__(self) -> None:
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = b""
        if scope["path"] == "/late":
            for _ in range(9):
                await asyncio.sleep(0)
        try:
            if scope["path"] in {"/whole", "/late"}:
                body = await read_body(scope, receive, 10 * MOST_UNREAD)
        except ClientDisconnected:
            self.left += 1
            return
        if scope["path"] == "/begin":
            await receive()
        assert isinstance(body, bytes)
        text = f"{scope['path']} {len(body)} {_digest(body)}\n"
        await send_response(send, 200, text.encode())


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def _received(text: bytes, reads: list[int], application: ASGIApp, *, settled: bool = True) -> Wire:
    """What a connection answers to a text that comes in reads of at most these sizes, over and over again."""
    wire, state = Wire(), ServerState()
    connection = ReadBuffer().connection(_config(application), state, {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    sizes = itertools.cycle(reads)
    while text and not wire.closed:
        if not wire.paused:
            place = connection.get_buffer(-1)
            size = min(len(place), next(sizes), len(text))
            assert size
            place[:size], text = text[:size], text[size:]
            connection.buffer_updated(size)
        await asyncio.sleep(0)
    await _end(connection, state, settled=settled)
    return wire


async def _handed_over(text: bytes, reads: list[int], application: ASGIApp) -> Wire:
    """The same, where the transport reads to memory of its own, as asyncio's for plain protocols do."""
    wire, state = Wire(), ServerState()
    connection = HttpConnection(_config(application), state, {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    sizes = itertools.cycle(reads)
    while text and not wire.closed:
        if not wire.paused:
            size = next(sizes)
            connection.data_received(text[:size])
            text = text[size:]
        await asyncio.sleep(0)
    await _end(connection, state, settled=True)
    return wire


async def _end(connection: HttpConnection | asyncio.BufferedProtocol, state: ServerState, *, settled: bool) -> None:
    if settled:
        while state.tasks:
            await asyncio.wait(state.tasks)
    tasks = list(state.tasks)
    connection.connection_lost(ConnectionResetError())
    await asyncio.gather(*tasks)


async def _expected(text: bytes) -> bytes:
    """What uvicorn's own protocol answers to the text in one piece."""
    wire, state = Wire(), ServerState()
    protocol = HttpToolsProtocol(_config(Application()), state, {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(text)
    while state.tasks:
        await asyncio.wait(state.tasks)
    protocol.connection_lost(ConnectionResetError())
    return wire.written


def _config(application: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(application, ws="none", log_config=None, access_log=False, lifespan="off")
    config.load()
    return config


READS = st.lists(st.integers(1, 3 * MOST_UNREAD), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(posts=st.lists(POSTS, min_size=1, max_size=5), reads=READS)
async def test_requests_in_a_row(posts: list[Posted], reads: list[int]) -> None:
    """Whatever their framing and size, and wherever they are cut, the answers are those of uvicorn's own protocol."""
    text = b"".join(post.text() for post in posts)
    wire = await _received(text, reads, Application())
    expected = await _expected(b"".join(post.text(with_offer=False) for post in posts))
    assert wire.written == expected
    assert wire.closed == any(post.closes for post in posts)
    assert (await _handed_over(text, reads, Application())).written == expected


async def test_what_comes_behind_the_last_request() -> None:
    """A request with `Connection: close` is answered, whatever is sent behind it."""
    posts = [Posted("whole", 3 * FIRST_READ), Posted("late", 0, closes=True), Posted("late", 0)]
    wire = await _received(b"".join(post.text() for post in posts), [MOST_UNREAD], Application())
    assert wire.written.count(b"HTTP/1.1 200 OK") == 2
    assert wire.closed


@settings(max_examples=200, deadline=None)
@given(post=POSTS.filter(lambda one: one.path in {"whole", "late"}), reads=READS, share=st.floats(0.0, 0.999))
async def test_clients_that_leave(post: Posted, reads: list[int], share: float) -> None:
    """A request that breaks off anywhere is not answered, and its application learns of it; the one before is."""
    before = Posted("whole", 5 * FIRST_READ).text()
    begun = post.text()[: int(share * len(post.text()))]
    application = Application()
    wire = await _received(before + begun, reads, application, settled=False)
    assert wire.written in {b"", await _expected(before)}  # it left before it could be answered, or after
    assert application.left <= 2
    assert application.left == (wire.written == b"") + (b"\r\n\r\n" in begun)


@pytest.mark.parametrize(
    ("size", "direct"), [(FIRST_READ, False), (FIRST_READ + 1, True), (MOST_UNREAD, True), (MOST_UNREAD + 1, False)]
)
async def test_which_bodies(size: int, *, direct: bool) -> None:
    """Only a body that may be in memory before anybody has asked for it has its place from the beginning."""
    connection = HttpConnection(_config(Application()), ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(Wire())
    buffer = memoryview(bytearray(9 * MOST_UNREAD))
    assert len(connection.room(buffer)) == FIRST_READ
    connection.data_received(Posted("whole", size).text()[:100])
    assert connection.receives_body == direct
    assert (len(connection.room(buffer)) < size) == direct
    connection.connection_lost(ConnectionResetError())


async def test_the_body_of_a_request_that_was_answered() -> None:
    """What comes behind the answer is in nobody's way and in nobody's memory."""
    state = ServerState()
    connection = HttpConnection(_config(Application()), state, {}, asyncio.get_running_loop())
    connection.connection_made(Wire())
    text = Posted("never", MOST_UNREAD).text()
    connection.data_received(text[:100])
    await asyncio.wait(state.tasks)
    connection.data_received(text[100:])
    assert not connection.receives_body
    assert isinstance(connection.cycle.body, bytearray)
    connection.connection_lost(ConnectionResetError())


async def test_a_slow_body_behind_its_answer() -> None:
    """The connection is not idle while a body comes, though its request was answered."""
    config = _config(Application())
    config.timeout_keep_alive = 0.6  # type: ignore[assignment]  # the loop takes any number
    wire = Wire()
    connection = ReadBuffer().connection(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    text = Posted("never", MOST_UNREAD).text()
    for at in range(0, len(text), FIRST_READ):
        piece = text[at : at + FIRST_READ]
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))
        await asyncio.sleep(0.1)
    assert not wire.closed
    connection.connection_lost(ConnectionResetError())


async def test_expect_continue() -> None:
    """The client is told to go on when the application asks for the body, which then is received where it stays."""
    post = Posted("whole", 5 * FIRST_READ)
    text = post.text().replace(b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n")
    head_size = text.index(b"\r\n\r\n") + 4
    wire = await _received(text, [head_size, MOST_UNREAD], Application())
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.written == go_on + await _expected(post.text())


class Small(Application):
    """Takes bodies of `FIRST_READ` bytes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request."""
        try:
            await read_body(scope, receive, FIRST_READ)
        except PayloadTooLarge as error:
            await refuse_body(receive, send, error)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_refused_body(*, chunked: bool) -> None:
    """Its rest is read and thrown away, the connection ends, and what comes behind it is no request any more."""
    post = Posted("whole", 7 * FIRST_READ, chunked=chunked)
    wire = await _received(post.text() * 2, [100], Small())
    assert wire.written.count(b"HTTP/1.1 ") == wire.written.count(b"HTTP/1.1 413 ") == 1
    assert wire.closed


async def test_a_framework() -> None:
    """Starlette, and with it the SDK's own routes, reads such a body like any other."""

    async def length(request: Request) -> Response:
        return Response(str(len(await request.body())), headers={"x-hash": _digest(await request.body())})

    post = Posted("whole", 5 * FIRST_READ)
    wire = await _received(post.text(), [99], Starlette(routes=[Route("/whole", length, methods=["POST"])]))
    assert wire.written.endswith(b"\r\n\r\n%d" % post.size)
    assert _digest(post.body).encode() in wire.written
