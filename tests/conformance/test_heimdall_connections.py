"""HTTP/1.1 as it comes from the network: odd, slow, huge and hostile (RFC 9110, RFC 9112), against a guarded server."""

from __future__ import annotations

import json
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conformance.conftest import Target

pytestmark = pytest.mark.profile("own")

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"
POST = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
PROMPT_S = 3.0
"""Long for a server, short for an attack: the machine may be busy with other tests."""

GROWTH_BYTES = 48 * 1024 * 1024
"""What the server may hold for ever after one test; the attacks send or unfold to several times as much."""


@pytest.fixture(scope="module")
def body(guarded: Target) -> bytes:
    """A request that is answered 200."""
    return json.dumps({"inputs": guarded.inputs()}).encode()


@pytest.fixture(autouse=True)
def _unharmed(guarded: Target) -> Iterator[None]:
    """After each test the server answers at once, and its memory has not grown."""
    before = _resident_bytes(guarded)
    yield
    started_s = time.monotonic()
    assert guarded.infer({"inputs": guarded.inputs()}).status == 200
    assert time.monotonic() - started_s < PROMPT_S
    assert _resident_bytes(guarded) - before < GROWTH_BYTES


def _resident_bytes(target: Target) -> int:
    assert target.process is not None
    status = Path(f"/proc/{target.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def _statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://somewhere.else/v2/health/live HTTP/1.1",
        b"GET //v2/health/live HTTP/1.1",
        b"GET /v2/health/live?a=b&%00#c HTTP/1.1",
        b"GET /v2/health/live/ HTTP/1.0",
        b"GET /%762/health/live HTTP/1.1",
    ],
    ids=["absolute form", "two slashes", "query and fragment", "HTTP/1.0", "encoded letters"],
)
def test_odd_targets(guarded: Target, line: bytes) -> None:
    """RFC 9112 section 3.2.2: the absolute form; RFC 3986 section 6.2.2.2: encoded letters; and what clients make."""
    received = guarded.raw(line + b"\r\nHost: x\r\n" + CLOSE)
    assert _statuses(received) == [200]
    assert b"x-request-id" in received  # by us, not by the SDK's application behind


@pytest.mark.parametrize("path", [b"v2%2Frepository/index", b"%76%32/repository/models/echo/unload"])
def test_no_way_past_the_guard(guarded: Target, path: bytes) -> None:
    """No spelling of a path reaches the SDK's own V2 routes, which unload the model for anybody."""
    received = guarded.raw(b"POST /" + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + CLOSE)
    assert _statuses(received)[0] in (404, 501)
    assert b"x-request-id" in received


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET v2 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/models/identit\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        LIVE + b"a: b\r\n c\r\n\r\n",
        LIVE + b"x-request-id: a\0b\r\n\r\n",
        LIVE + b"a : b\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length: -2\r\n\r\n{}",
        POST + b"Content-Length: 0x2\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_no_http(guarded: Target, head: bytes) -> None:
    """What is not HTTP/1.1, or could smuggle a second request past a proxy, is 400 and the end of the connection."""
    received = guarded.raw(head)
    assert _statuses(received) in ([400], [])
    if received:
        assert "error" in json.loads(received.split(b"\r\n\r\n", 1)[1])


def test_pipelining(guarded: Target, body: bytes) -> None:
    """RFC 9112 section 9.3.2: requests sent without waiting are answered in their order."""
    post = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"
    received = guarded.raw(
        LIVE
        + b"\r\n"
        + post
        + _length(body)
        + b"\r\n"
        + body
        + b"GET /v2/nope HTTP/1.1\r\nHost: x\r\n\r\n"
        + LIVE
        + CLOSE
    )
    assert _statuses(received) == [200, 200, 404, 200]


def test_chunked_bodies(guarded: Target, body: bytes) -> None:
    """RFC 9112 section 7.1: a body in chunks, with extensions and trailers, cut anywhere, is the same body."""
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (body[:1], body[1:30], body[30:]))
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"
    assert _statuses(guarded.raw(data)) == [200]
    assert _statuses(guarded.raw(*[data[at : at + 40] for at in range(0, len(data), 40)], pause_s=0.001)) == [200]


def test_expect_continue(guarded: Target, body: bytes) -> None:
    """RFC 9110 section 10.1.1: 100 before the body is read; the final status at once where it will not be."""
    head = POST + b"Expect: 100-continue\r\n"
    with socket.create_connection(guarded.address, timeout=10) as connection:
        connection.sendall(head + _length(body) + b"\r\n")
        assert _statuses(connection.recv(4096)) == [100]
        connection.sendall(body)
        assert _statuses(connection.recv(4096)) == [200]
    with socket.create_connection(guarded.address, timeout=10) as connection:
        connection.sendall(head + b"Content-Length: 1000001\r\n\r\n")
        assert _statuses(connection.recv(4096)) == [413]


def test_an_offer_to_upgrade(guarded: Target, body: bytes) -> None:
    """RFC 9110 section 7.8: it may be ignored; the request is answered, its body included (Java offers h2c)."""
    post = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n" + UPGRADE + _length(body) + b"\r\n"
    assert _statuses(guarded.raw(post, body, LIVE + CLOSE, pause_s=0.05)) == [200, 200]
    assert _statuses(guarded.raw(post + body + post + body + LIVE + CLOSE)) == [200, 200, 200]


def test_ten_thousand_headers(guarded: Target) -> None:
    """Answered or refused with 431, at once."""
    for size in (1, 100):
        headers = b"".join(b"a%d: %s\r\n" % (number, b"b" * size) for number in range(10_000))
        assert _statuses(guarded.raw(LIVE + headers + CLOSE)) in ([200], [431], [])


@pytest.mark.parametrize("start", [LIVE + b"a: ", b"GET /", LIVE + b"Cookie: a\r\nb"], ids=["value", "target", "name"])
def test_an_endless_head(guarded: Target, start: bytes) -> None:
    """60 MB of one header, target or name end at the limit, without taking time or memory."""
    started_s = time.monotonic()
    guarded.raw(start, *[b"x" * 2**20] * 60)
    assert time.monotonic() - started_s < PROMPT_S


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("start", [b"", b'{"inputs":'])
def test_compression_bombs(guarded: Target, coding: str, start: bytes) -> None:
    """A small body that unfolds to 128 MiB is 413 as soon as it passes the limit."""
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    body = packer.compress(start) + b"".join(packer.compress(b" " * 2**20) for _ in range(128)) + packer.flush()
    assert len(body) < 1_000_000
    started_s = time.monotonic()
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    guarded.call("/v2/models/echo/infer", body, headers).refuses(413)
    assert time.monotonic() - started_s < PROMPT_S


def test_refused_bodies_are_not_read(guarded: Target) -> None:
    """413 by the announced length alone, in chunks as soon as the limit is passed; and the answer arrives."""
    with socket.create_connection(guarded.address, timeout=10) as connection:
        connection.sendall(POST + b"Content-Length: 100000000000\r\n\r\n{")
        assert _statuses(connection.recv(4096)) == [413]
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    assert _statuses(guarded.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 3, b"0\r\n\r\n")) == [413]


def test_clients_that_leave(guarded: Target, body: bytes) -> None:
    """Connections cut at any byte of a request leave nothing behind."""
    data = POST + _length(body) + b"\r\n" + body
    for cut in range(0, len(data), 7):
        with socket.create_connection(guarded.address, timeout=5) as connection:
            connection.sendall(data[:cut])


def test_slow_clients(guarded: Target, body: bytes) -> None:
    """A hundred clients that send a byte now and then hold up nobody; the time budget ends those within a body."""
    crawlers = [socket.create_connection(guarded.address, timeout=10) for _ in range(100)]
    stop = threading.Event()
    dripping = threading.Thread(target=_drip, args=(crawlers, stop))
    for at, crawler in enumerate(crawlers):
        crawler.sendall(POST[:-2] if at % 2 else POST + b"Content-Length: 999\r\n\r\n{")
    dripping.start()
    try:
        slowest_s = max(_seconds(lambda: guarded.infer(body)) for _ in range(20))
        assert slowest_s < 1.5  # the time budget is 2 s: nobody waits for it
        assert _statuses(crawlers[0].recv(4096)) == [504]
    finally:
        stop.set()
        dripping.join()
        for crawler in crawlers:
            crawler.close()


def _drip(crawlers: list[socket.socket], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        for crawler in crawlers:
            try:
                crawler.sendall(b" ")
            except OSError:
                continue  # ended by the server


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.monotonic()
    call()
    return time.monotonic() - started_s


def test_a_connection_survives_errors(guarded: Target, body: bytes) -> None:
    """After a 4xx whose body was read, the connection is good for the next request."""
    post = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"
    one = post + _length(b"{}") + b"\r\n{}"
    received = guarded.raw(one, one, post + _length(body) + b"\r\n" + body, LIVE + CLOSE, pause_s=0.02)
    assert _statuses(received) == [400, 400, 200, 200]
