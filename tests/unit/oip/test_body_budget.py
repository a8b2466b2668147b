"""The limit for the bodies of all requests together."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest

from oip.body_budget import BudgetedApplication, take
from oip.errors import Unavailable
from oip.http import read_body, send_response
from oip.http_connection import MAX_UNREAD_BYTES
from oip.whole_body import MAX_WHOLE_BYTES

if TYPE_CHECKING:
    from oip.http import Message, Receive, Scope, Send

LIMIT_BYTES = 4 * MAX_WHOLE_BYTES


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
    """One request; where more is announced than the chunks are, the rest never comes."""
    headers = [(b"content-encoding", coding)]
    if announced is not None:
        headers.append((b"content-length", b"%d" % announced))
    incomplete = announced is not None and sum(map(len, chunks)) < announced
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": index + 1 < len(chunks) or incomplete}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else await asyncio.Future()

    async def send(_message: Message) -> None:
        pass

    await application({"type": "http", "headers": headers}, receive, send)


async def _reading(application: BudgetedApplication, reader: Reader, count: int, size: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(_request(application, b"x" * size, announced=size)) for _ in range(count)]
    async with asyncio.timeout(5.0):
        for _ in tasks:
            await reader.read.acquire()
    return tasks


async def _stalled(application: BudgetedApplication, *chunks: bytes, announced: int) -> list[asyncio.Task[None]]:
    """Four clients that send these chunks of what they announce, and nothing more."""
    tasks = [asyncio.create_task(_request(application, *chunks, announced=announced)) for _ in range(4)]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def _hung_up(application: BudgetedApplication, tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert application.held_bytes == 0


async def test_announced_bodies() -> None:
    """A body that is announced and does not come takes nothing from the others; what has come of it does."""
    reader = Reader()
    reader.answer.set()
    application = BudgetedApplication(reader, LIMIT_BYTES)
    stalled = await _stalled(application, b"x" * 1_000, announced=LIMIT_BYTES // 2)
    assert application.held_bytes == 4_000
    size = LIMIT_BYTES - 4_000
    await _request(application, b"x" * size, announced=size)
    await _hung_up(application, stalled)


async def test_bodies_whose_memory_is_taken() -> None:
    """A body that may be received where it stays counts from its announcement, because its memory is there already."""
    assert MAX_UNREAD_BYTES == MAX_WHOLE_BYTES
    application = BudgetedApplication(Reader(), LIMIT_BYTES)
    stalled = await _stalled(application, announced=MAX_WHOLE_BYTES)
    assert application.held_bytes == 4 * MAX_WHOLE_BYTES
    with pytest.raises(Unavailable):
        await _request(application, announced=1)
    await _hung_up(application, stalled)


@pytest.mark.parametrize("announced", [1, 2 * MAX_WHOLE_BYTES], ids=["small", "large"])
async def test_bodies_that_do_not_fit(announced: int) -> None:
    """A body that would not fit beside those in work is refused by its announcement, before any of it is read."""
    reader = Reader()
    application = BudgetedApplication(reader, 1_000)
    tasks = await _reading(application, reader, 2, 500)
    with pytest.raises(Unavailable) as caught:
        await _request(application, announced=announced)
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


def test_a_refused_body_holds_nothing() -> None:
    """What is refused halfway makes room at once, so that of bodies which arrive together not all are refused."""
    application = BudgetedApplication(Reader(), 1_000)
    with application.share() as first, application.share() as second:
        first.take(500)
        second.take(400)
        with pytest.raises(Unavailable):
            second.take(200)
        assert application.held_bytes == 500
        first.take(500)
    assert application.held_bytes == 0


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
