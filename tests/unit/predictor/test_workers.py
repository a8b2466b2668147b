from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from predictor.errors import Overloaded
from predictor.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """One thread, one place to wait."""
    pool = WorkerPool(threads=1, max_queue=1)
    yield pool
    pool.close(5)


async def test_results_and_errors_come_back(pool: WorkerPool) -> None:
    """The call runs in another thread; its result or its exception reaches the caller."""
    assert await pool.submit(threading.get_ident) != threading.get_ident()
    assert await pool.submit(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.submit(divmod, 7, 0)
    assert pool.pending == 0


async def test_a_full_queue_refuses_at_once(pool: WorkerPool) -> None:
    """With every thread busy and the queue full the next call is refused, without waiting; later ones are taken."""
    release = threading.Event()
    accepted = [pool.submit(release.wait, 5.0) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 requests are waiting or running"):
        pool.submit(release.wait, 5.0)
    release.set()
    assert await asyncio.gather(*accepted) == [True, True]
    assert await pool.submit(abs, -1) == 1


async def test_the_event_loop_stays_free(pool: WorkerPool) -> None:
    """While a call blocks its thread, the loop goes on."""
    release = threading.Event()
    waiting = pool.submit(release.wait, 5.0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    release.set()
    assert await waiting


async def test_a_cancelled_call_is_never_begun(pool: WorkerPool) -> None:
    """A call that nobody waits for any more costs no computation, and its place becomes free."""
    release, calls = threading.Event(), []
    running, waiting = pool.submit(release.wait, 5.0), pool.submit(calls.append, 1)
    waiting.cancel()
    release.set()
    await running
    await pool.submit(abs, 1)
    assert calls == []
    assert pool.pending == 0


async def test_cancelled_while_it_runs(pool: WorkerPool) -> None:
    """A call cancelled while it runs ends by itself; its result goes nowhere and harms nobody."""
    begun, release = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        release.wait(5.0)

    running = pool.submit(call)
    assert await asyncio.to_thread(begun.wait, 5.0)
    running.cancel()
    release.set()
    assert await pool.submit(abs, -2) == 2
    assert pool.pending == 0


async def test_several_threads_work_at_once() -> None:
    """As many calls run at once as there are threads."""
    pool = WorkerPool(threads=2, max_queue=0)
    barrier = threading.Barrier(2, timeout=5.0)
    assert sorted(await asyncio.gather(pool.submit(barrier.wait), pool.submit(barrier.wait))) == [0, 1]
    pool.close(5)


async def test_closing_lets_accepted_calls_end() -> None:
    """After `close` nothing is accepted; what was accepted has run."""
    pool = WorkerPool(threads=1, max_queue=4)
    accepted = [pool.submit(abs, -number) for number in range(3)]
    pool.close(5)
    assert await asyncio.gather(*accepted) == [0, 1, 2]
    with pytest.raises(Overloaded, match="being unloaded"):
        pool.submit(abs, 1)


def test_closing_does_not_wait_for_ever() -> None:
    """A run that does not end holds up the end for the given time only; its loop may be gone by then."""
    pool, release = WorkerPool(threads=1, max_queue=0), threading.Event()

    async def leave_behind() -> None:
        pool.submit(release.wait, 5.0)

    asyncio.run(leave_behind())
    started_s = time.monotonic()
    pool.close(0.05)
    assert 0.04 < time.monotonic() - started_s < 2
    release.set()
    pool.close(5)


async def test_an_idle_thread_keeps_nothing_alive(pool: WorkerPool) -> None:
    """The tensors of the last request are freed although no other request follows."""

    class Tensor: ...

    tensor = Tensor()
    alive = weakref.ref(tensor)
    await pool.submit(id, tensor)
    del tensor
    for _ in range(100):
        gc.collect()
        if alive() is None:
            break
        await asyncio.sleep(0.01)
    assert alive() is None
