from __future__ import annotations

import asyncio
import gzip
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from oip import http
from oip.errors import InvalidRequest, PayloadTooLarge, Unavailable, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.http import Header, Message, Receive, Scope, Send

PLAIN = b"0123456789" * 100
# Without a time inside, and with names for the cases: every worker of pytest must collect the same ids.
GZIPPED = gzip.compress(PLAIN, mtime=0)


def _scope(*headers: Header) -> Scope:
    return {"type": "http", "headers": list(headers)}


def _receive(*chunks: bytes, complete: bool = True) -> Receive:
    pending = list(chunks)

    async def receive() -> Message:
        if not pending:
            return {"type": "http.disconnect"}
        chunk = pending.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(pending) or not complete}

    return receive


async def test_one_chunk_is_not_copied() -> None:
    """The usual body arrives whole and is handed on as it is."""
    assert await http.read_body(_scope(), _receive(PLAIN), 1000) is PLAIN


async def test_chunks_are_joined() -> None:
    """A body in pieces is their concatenation; exactly the limit is still allowed."""
    assert await http.read_body(_scope(), _receive(b"a", b"", b"bc"), 3) == b"abc"


async def test_announced_size_is_refused_unread() -> None:
    """Content-Length above the limit needs no reading."""

    async def never() -> Message:
        raise AssertionError

    with pytest.raises(PayloadTooLarge, match="3 bytes"):
        await http.read_body(_scope((b"content-length", b"4")), never, 3)


async def test_unannounced_size_is_refused_while_reading() -> None:
    """A chunked body is cut off as soon as it passes the limit."""
    with pytest.raises(PayloadTooLarge):
        await http.read_body(_scope(), _receive(b"ab", b"cd", complete=False), 3)


async def test_a_refused_body_is_let_go() -> None:
    """What has come of it does not stay in memory with the error, while the client is told and its rest thrown away."""
    chunk = bytes(1000)
    before = sys.getrefcount(chunk)
    with pytest.raises(PayloadTooLarge) as refused:
        await http.read_body(_scope(), _receive(chunk, b"more", complete=False), 1000)
    assert sys.getrefcount(chunk) == before
    assert refused.tb is not None


async def test_disconnect_while_reading() -> None:
    """Half a body is never taken for a whole one."""
    with pytest.raises(http.ClientDisconnected):
        await http.read_body(_scope(), _receive(b"ab", complete=False), 3)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", GZIPPED),
        (b"X-GZIP", GZIPPED),
        (b"deflate", zlib.compress(PLAIN)),
        (b"identity", PLAIN),
    ],
    ids=["gzip", "X-GZIP", "deflate", "identity"],
)
async def test_content_codings(coding: bytes, body: bytes) -> None:
    """RFC 9110 section 8.4.1: gzip with its old name, and deflate in the zlib format."""
    assert await http.read_body(_scope((b"content-encoding", coding)), _receive(body), 1000) == PLAIN


async def test_a_decompression_bomb_is_refused() -> None:
    """The limit holds for what the body becomes, and no more than that is ever made of it."""
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(PayloadTooLarge):
        await http.read_body(_scope((b"content-encoding", b"gzip")), _receive(bomb), 100_000)


@pytest.mark.parametrize(
    "body", [b"", b"plain", GZIPPED[:-1], GZIPPED + b"x"], ids=["empty", "plain", "cut off", "longer"]
)
async def test_broken_compression(body: bytes) -> None:
    """What is not one complete stream is the client's mistake."""
    with pytest.raises(InvalidRequest, match="gzip"):
        await http.read_body(_scope((b"content-encoding", b"gzip")), _receive(body), 10_000)


async def test_unknown_coding() -> None:
    """Another Content-Encoding is 415, not a JSON error."""
    with pytest.raises(UnsupportedMediaType, match="br"):
        await http.read_body(_scope((b"content-encoding", b"br")), _receive(b""), 1)


def test_context_of_a_bare_request() -> None:
    """Without headers: the default budget and a fresh id."""
    before_s = time.monotonic()
    context = http.call_context(_scope(), 5)
    assert before_s + 5 <= context.deadline_s <= time.monotonic() + 5
    assert len(context.request_id) == 32
    assert context.request_id != http.call_context(_scope(), 5).request_id
    assert (context.traceparent, context.tracestate) == (None, None)


@pytest.mark.parametrize(("timeout_ms", "budget_s"), [(b"1500", 1.5), (b"600000", 5.0)])
def test_timeout_header_only_lowers(timeout_ms: bytes, budget_s: float) -> None:
    """A client can ask for less time than the server gives, never for more."""
    before_s = time.monotonic()
    context = http.call_context(_scope((b"x-request-timeout-ms", timeout_ms)), 5)
    assert before_s + budget_s <= context.deadline_s <= time.monotonic() + budget_s


@pytest.mark.parametrize("timeout_ms", [b"", b"0", b"-1", b"1.5", b"x", b"1_0", b"9" * 16])
def test_wrong_timeout_header(timeout_ms: bytes) -> None:
    """Anything but a whole number above 0 is a 400 that names the header."""
    with pytest.raises(InvalidRequest, match=r"^x-request-timeout-ms: "):
        http.call_context(_scope((b"x-request-timeout-ms", timeout_ms)), 5)


def test_identity_travels() -> None:
    """Request id and W3C trace context are passed on unchanged."""
    headers = ((b"x-request-id", b"r-1"), (b"traceparent", b"00-a-b-01"), (b"tracestate", b"k=v"))
    context = http.call_context(_scope(*headers), 5)
    assert (context.request_id, context.traceparent, context.tracestate) == ("r-1", "00-a-b-01", "k=v")


@pytest.mark.parametrize("request_id", [b"", b"a b", b"a\x1b[31m", b"\xff", b"x" * 129])
def test_unprintable_request_id_is_replaced(request_id: bytes) -> None:
    """What could forge a log line never reaches one."""
    assert len(http.call_context(_scope((b"x-request-id", request_id)), 5).request_id) == 32


def _sink() -> tuple[list[Message], Send]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    return sent, send


async def test_errors_carry_retry_after() -> None:
    """503 says when to come again; the length is always there."""
    sent, send = _sink()
    await http.send_error(send, Unavailable("full", retry_after_s=3))
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 503
    assert headers[b"retry-after"] == b"3"
    assert int(headers[b"content-length"]) == len(sent[1]["body"])


async def test_refusal_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is sent before the rest of the body is read, and a client that never ends is not waited for."""
    monkeypatch.setattr(http, "LINGER_S", 0.05)
    sent, send = _sink()
    reads: list[int] = []

    async def endless() -> dict[str, Any]:
        reads.append(len(sent))
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    await http.refuse_body(endless, send, PayloadTooLarge("no"))
    assert reads[0] == 2
    assert dict(sent[0]["headers"])[b"connection"] == b"close"
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]


async def test_refusal_ends_with_the_body(asgi_call: Callable[..., Any]) -> None:
    """Once the body is complete nothing is waited for."""

    async def refuse(_scope: Scope, receive: Receive, send: Send) -> None:
        await http.refuse_body(receive, send, PayloadTooLarge("no"))

    async with asyncio.timeout(1):
        answer = await asgi_call(refuse, "POST", "/", chunks=[b"a", b"b", b"c"])
    assert (answer.status, answer.body) == (413, b'{"error":"no"}')
