"""The limit for the bodies of all requests together."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest

from oip.body_budget import BudgetedApplication, take
from oip.errors import Unavailable
from oip.http import read_body, send_response

if TYPE_CHECKING:
    from oip.http import Message, Receive, Scope, Send

LIMIT_BYTES = 1_000


class Reader:
    """Reads bodies, and answers when it is told to."""

    def __init__(self) -> None:
        self.read = asyncio.Semaphore(0)
        self.answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await read_body(scope, receive, LIMIT_BYTES)
        self.read.release()
        await self.answer.wait()
        await send_response(send, 200, b"{}")


async def _request(
    application: BudgetedApplication, *chunks: bytes, announced: int | None = None, coding: bytes = b"identity"
) -> None:
    headers = [(b"content-encoding", coding)]
    if announced is not None:
        headers.append((b"content-length", b"%d" % announced))
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": index + 1 < len(chunks)}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_message: Message) -> None:
        pass

    await application({"type": "http", "headers": headers}, receive, send)


async def _reading(application: BudgetedApplication, reader: Reader, count: int, size: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(_request(application, b"x" * size, announced=size)) for _ in range(count)]
    async with asyncio.timeout(5.0):
        for _ in tasks:
            await reader.read.acquire()
    return tasks


async def test_announced_bodies() -> None:
    """A body that would not fit beside those in work is refused by its announcement, before any of it is read."""
    reader = Reader()
    application = BudgetedApplication(reader, 1_000)
    tasks = await _reading(application, reader, 2, 500)
    with pytest.raises(Unavailable) as caught:
        await _request(application, announced=1)
    assert caught.value.retry_after_s == 1
    reader.answer.set()
    await asyncio.gather(*tasks)
    assert application.held_bytes == 0
    await _request(application, b"x" * 500, announced=500)


async def test_chunked_bodies() -> None:
    """A body without an announcement is refused at the chunk that does not fit, and what it held is given back."""
    reader = Reader()
    application = BudgetedApplication(reader, 1_000)
    tasks = await _reading(application, reader, 1, 900)
    with pytest.raises(Unavailable):
        await _request(application, b"x" * 60, b"x" * 60)
    assert application.held_bytes == 900
    reader.answer.set()
    await asyncio.gather(*tasks)


async def test_inflated_bodies() -> None:
    """What a compressed body inflates to counts too."""
    reader = Reader()
    application = BudgetedApplication(reader, 1_000)
    tasks = await _reading(application, reader, 1, 500)
    small = gzip.compress(b"x" * 900)
    with pytest.raises(Unavailable):
        await _request(application, small, announced=len(small), coding=b"gzip")
    reader.answer.set()
    await asyncio.gather(*tasks)


async def test_alone() -> None:
    """A request that nobody else is in work beside always fits."""
    reader = Reader()
    reader.answer.set()
    application = BudgetedApplication(reader, 10)
    await _request(application, b"x" * 400, b"x" * 400)
    assert application.held_bytes == 0


def test_without_a_budget() -> None:
    """An application that has no budget around it reads what it likes."""
    take({"type": "http"}, 10**12)
