from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from transformer.answer_store import StoreFailed
from transformer.gathered_reads import GatheredReads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


HELD = b"held"


class Shelf:
    """A store that says each key in capitals, and remembers what it was asked for."""

    def __init__(self, *, open_: bool = True) -> None:
        self.asked: list[list[bytes]] = []
        self.failure: Exception | None = None
        self.released = asyncio.Event()
        self.opened = asyncio.Event()
        if open_:
            self.opened.set()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Answer once it is open, or fail then."""
        if HELD in keys:
            await self.released.wait()
            return [None]
        self.asked.append(list(keys))
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        return [key.upper() or None for key in keys]


@asynccontextmanager
async def _busy(shelf: Shelf) -> AsyncIterator[GatheredReads]:
    """Reads of which one is under way all the time, so that others gather."""
    reads = GatheredReads(shelf.read)
    held = asyncio.create_task(reads.get([HELD]))
    await asyncio.sleep(0)
    yield reads
    shelf.released.set()
    assert await held == [None]


async def test_a_lone_read_is_made_as_it_is() -> None:
    """No task is started for a read that meets no other, and its failure does not make the next one wait."""
    shelf = Shelf()
    reads = GatheredReads(shelf.read)
    coroutine = reads.get([b"a", b"b"])
    with pytest.raises(StopIteration) as ended:  # at its first step: this store never waits
        coroutine.send(None)
    assert ended.value.value == [b"A", b"B"]
    shelf.failure = StoreFailed("late")
    with pytest.raises(StoreFailed):
        await reads.get([b"a"])
    with pytest.raises(StoreFailed):
        reads.get([b"a"]).send(None)


async def test_what_begins_together_is_one_read() -> None:
    """Everybody gets his own entries in his own order, also where two ask for the same and one for nothing there is."""
    shelf = Shelf()
    asked = [[b"a", b"b"], [b"c"], [b""], [b"b", b"a"]]
    async with _busy(shelf) as reads:
        found = await asyncio.gather(*map(reads.get, asked))
    assert found == [[b"A", b"B"], [b"C"], [None], [b"B", b"A"]]
    assert shelf.asked == [[b"a", b"b", b"c", b"", b"b", b"a"]]


async def test_nobody_waits_for_a_read_that_has_begun() -> None:
    """A read that gets no answer holds up none of those that are asked for later."""
    shelf = Shelf(open_=False)
    reads = GatheredReads(shelf.read)
    first = asyncio.create_task(reads.get([b"a"]))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(reads.get([b"b"]))
    await asyncio.sleep(0.01)
    assert shelf.asked == [[b"a"], [b"b"]]
    shelf.opened.set()
    assert await asyncio.gather(first, second) == [[b"A"], [b"B"]]


@pytest.mark.parametrize("failure", [StoreFailed("late"), KeyError("a defect")])
async def test_a_failure_is_everybodys(failure: Exception) -> None:
    """Each of them is told, be it a failure of the store or a defect; the next read is a new one."""
    shelf = Shelf()
    shelf.failure = failure
    async with _busy(shelf) as reads:
        assert await asyncio.gather(*map(reads.get, ([b"a"], [b"b"])), return_exceptions=True) == [failure, failure]
        shelf.failure = None
        assert await reads.get([b"a"]) == [b"A"]


@pytest.mark.parametrize("failure", [None, StoreFailed("late")])
async def test_who_is_cancelled_takes_nothing_from_others(failure: Exception | None) -> None:
    """A client that goes during the read ends its own wait alone."""
    shelf = Shelf(open_=False)
    async with _busy(shelf) as reads:
        gone, stays = (asyncio.create_task(reads.get([key])) for key in (b"a", b"b"))
        await asyncio.sleep(0.01)
        gone.cancel()
        shelf.failure = failure
        shelf.opened.set()
        told = await asyncio.gather(stays, return_exceptions=True)
    assert gone.cancelled()
    assert told == [failure or [b"B"]]


async def test_what_nobody_waits_for_is_not_read() -> None:
    """A client that is gone before the read begins is left out of it, and alone causes none."""
    shelf = Shelf()
    async with _busy(shelf) as reads:
        gone, stays = (asyncio.create_task(reads.get([key])) for key in (b"a", b"b"))
        asyncio.get_running_loop().call_soon(gone.cancel)
        assert await stays == [b"B"]
        alone = asyncio.create_task(reads.get([b"c"]))
        asyncio.get_running_loop().call_soon(alone.cancel)
        await asyncio.sleep(0.01)
    assert shelf.asked == [[b"b"]]


async def test_a_read_that_is_cancelled_leaves_nobody_waiting() -> None:
    """Who ends the loop's tasks ends the waits for them too."""
    shelf = Shelf(open_=False)
    async with _busy(shelf) as reads:
        before = asyncio.all_tasks()
        waits = asyncio.create_task(reads.get([b"a"]))
        await asyncio.sleep(0.01)
        (read,) = asyncio.all_tasks() - before - {waits}
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
