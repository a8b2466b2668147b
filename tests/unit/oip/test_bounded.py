from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from oip.bounded import BoundedApplication

if TYPE_CHECKING:
    from oip.http import Message, Receive, Scope, Send

PIECE = b"x" * 400


class Greedy:
    """An application that reads whatever comes, and then looks whether the client is still there."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.last: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, and answer 200."""
        if scope["type"] != "http":
            self.last.append(scope["type"])
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        self.last.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _call(pieces: list[bytes], headers: list[tuple[bytes, bytes]], *, ends: bool = True) -> tuple[Greedy, Any]:
    """Send these pieces of a body; with `ends` the last one is the end, else nothing more comes."""
    greedy, sent = Greedy(), []
    pending: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": not (ends and index == len(pieces))}
        for index, piece in enumerate(pieces, 1)
    ]

    async def receive() -> Message:
        if not pending and not ends:
            await asyncio.sleep(60)
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await BoundedApplication(greedy, 1000, 0.1)({"type": "http", "headers": headers}, receive, send)
    return greedy, sent


async def test_a_body_within_the_limits() -> None:
    """It arrives whole, and the application still learns that the client has gone."""
    greedy, sent = await _call([PIECE, PIECE], [])
    assert (greedy.bodies, greedy.last) == ([PIECE * 2], ["http.disconnect"])
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"1200")]])
async def test_a_body_that_is_too_large(headers: list[tuple[bytes, bytes]]) -> None:
    """413 by what is announced or by what comes, and the application never sees it."""
    greedy, sent = await _call([PIECE] * 3, headers)
    assert (sent[0]["status"], greedy.bodies) == (413, [])
    assert "1000 bytes" in json.loads(sent[1]["body"])["error"]


async def test_a_body_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """504 after the time limit."""
    monkeypatch.setattr("oip.http.LINGER_S", 0.05)
    greedy, sent = await _call([PIECE], [], ends=False)
    assert (sent[0]["status"], greedy.bodies) == (504, [])


async def test_a_client_that_leaves() -> None:
    """Nobody is answered, and the application is not called."""
    greedy, sent = await _call([], [])
    assert (sent, greedy.bodies) == ([], [])


async def test_what_is_not_http() -> None:
    """It goes through as it is."""
    greedy = Greedy()
    await BoundedApplication(greedy, 1000, 0.1)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]  # unused
    assert greedy.last == ["lifespan"]
