from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from oip.large_work import INLINE_BYTES, THREADS, Places, off_loop

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = INLINE_BYTES + 1


class Gone(Exception):
    """What a watch of these tests lets a waiting future fail with."""


async def test_what_is_large() -> None:
    """Above the threshold a function runs in another thread, below it in this one."""
    here = threading.get_ident()
    assert await off_loop(INLINE_BYTES, None, threading.get_ident) == here
    assert await off_loop(LARGE, None, threading.get_ident) != here


async def test_errors_and_arguments() -> None:
    """A thread's function gets its arguments, and its error is the caller's; the place is free again afterwards."""
    for _ in range(THREADS + 1):
        with pytest.raises(ValueError, match="invalid literal for int"):
            await off_loop(LARGE, None, int, "x", base=3)
    assert await off_loop(LARGE, None, int, "12", base=3) == 5


async def test_a_client_that_leaves_the_queue() -> None:
    """Its work is never begun, and those behind it move up."""
    go_on, begun = threading.Event(), []
    watched: list[asyncio.Future[Any]] = []

    def work(number: int) -> int:
        begun.append(number)
        go_on.wait(5)
        return number

    tasks = [asyncio.create_task(off_loop(LARGE, watched.append, work, number)) for number in range(THREADS + 3)]
    while len(begun) < THREADS:  # noqa: ASYNC110 - the threads tell nobody
        await asyncio.sleep(0.001)
    assert len(watched) == 3  # only who has to wait is watched
    watched[1].set_exception(Gone())
    tasks[-1].cancel()
    await asyncio.sleep(0)
    go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[: THREADS + 1] == list(range(THREADS + 1))
    assert [type(one) for one in results[THREADS + 1 :]] == [Gone, asyncio.CancelledError]
    assert sorted(begun) == list(range(THREADS + 1))


@pytest.mark.parametrize("leave", [lambda task: task.cancel(), lambda _task: None])
async def test_places(leave: Callable[[asyncio.Task[None]], object]) -> None:
    """A place is given once, to whoever waits longest; one that is given to somebody who just left is not lost."""
    places = Places(1)
    await places.take()
    first, second = (asyncio.create_task(places.take()) for _ in range(2))
    await asyncio.sleep(0)
    places.give_back()
    leave(first)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (first.done(), second.done()) == (True, first.cancelled())
    if not second.done():
        places.give_back()
        await second
    places.give_back()
    async with asyncio.timeout(1):
        await places.take()
