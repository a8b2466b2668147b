from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from predictor.errors import DeadlinePassed, InferenceFailed, Overloaded
from predictor.work import Work
from predictor.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class Model:
    """Doubles its input `x`; waits for `release` first; keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = threading.Event()
        self.batches: list[int] = []
        self.thread = 0

    def run(self, inputs: Mapping[str, Any], _names: Sequence[str]) -> tuple[Any, ...]:
        """The session's part; -1 in the input makes it fail."""
        self.thread = threading.get_ident()
        self.batches.append(len(inputs["x"]))
        self.begun.set()
        assert self.release.wait(10)
        if (inputs["x"] == -1).any():
            raise InferenceFailed("-1")
        return (inputs["x"] * 2,)

    def work(self, *values: float, key: object = None, deadline_s: float = float("inf")) -> Work:
        """A request with these rows."""
        return Work(self, {"x": np.array(values, np.float32)}, ["y"], len(values), deadline_s, key)


@pytest.fixture
def model() -> Model:
    """A model that waits to be released."""
    return Model()


@pytest.fixture
def make() -> Iterator[Callable[..., WorkerPool]]:
    """Makes pools of one thread and a queue of 32, or as told."""
    pools: list[WorkerPool] = []

    def make(threads: int = 1, max_queue: int = 32, **options: Any) -> WorkerPool:  # noqa: ANN401 - the pool's own
        pools.append(WorkerPool(threads, max_queue, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(10)


async def _values(future: asyncio.Future[Any]) -> list[float]:
    return (await future).results[0].tolist()


async def test_results_and_errors_come_back(make: Callable[..., WorkerPool], model: Model) -> None:
    """The run happens in another thread; its results or its error reach the caller, with times."""
    pool = make()
    model.release.set()
    outcome = await pool.submit(model.work(1, 2))
    assert outcome.results[0].tolist() == [2, 4]
    assert 0 <= outcome.queue_s < 5
    execution = outcome.executions[0]
    assert execution.rows == 2
    assert execution.began_s <= execution.gathered_s <= execution.ran_s <= execution.ended_s
    with pytest.raises(InferenceFailed):
        await pool.submit(model.work(-1))
    assert (pool.pending, model.thread != threading.get_ident()) == (0, True)


async def test_a_full_queue_refuses_at_once(make: Callable[..., WorkerPool], model: Model) -> None:
    """With every thread busy and the queue full the next request is refused, without waiting; later ones are taken."""
    pool = make(max_queue=1)
    accepted = [pool.submit(model.work(number)) for number in range(2)]
    assert pool.crowded
    with pytest.raises(Overloaded, match="2 requests are waiting or running"):
        pool.submit(model.work(1))
    model.release.set()
    assert [await _values(one) for one in accepted] == [[0], [2]]
    assert await _values(pool.submit(model.work(3))) == [6]


async def test_the_event_loop_stays_free(make: Callable[..., WorkerPool], model: Model) -> None:
    """While a run blocks its thread, the loop goes on."""
    waiting = make().submit(model.work(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    model.release.set()
    assert await _values(waiting) == [2]


@pytest.mark.parametrize("how", ["cancelled", "client gone", "too late"])
async def test_work_that_nobody_wants_is_not_begun(make: Callable[..., WorkerPool], model: Model, how: str) -> None:
    """A request that was given up while it waited costs no run, and its place becomes free."""
    pool = make()
    running = pool.submit(model.work(1))
    await asyncio.to_thread(model.begun.wait, 10)
    deadline_s = time.monotonic() + (0.01 if how == "too late" else 60)
    waiting = pool.submit(model.work(1, 2, 3, deadline_s=deadline_s))
    if how == "cancelled":
        waiting.cancel()
    elif how == "client gone":
        waiting.set_exception(ConnectionError())
    else:
        await asyncio.sleep(0.02)
    model.release.set()
    await running
    await pool.submit(model.work(1))
    assert model.batches == [1, 1]
    assert pool.pending == 0
    if how != "cancelled":
        with pytest.raises(DeadlinePassed if how == "too late" else ConnectionError):
            await waiting


async def test_cancelled_while_it_runs(make: Callable[..., WorkerPool], model: Model) -> None:
    """A run whose request is cancelled meanwhile ends by itself; its result goes nowhere and harms nobody."""
    pool = make()
    running = pool.submit(model.work(1))
    await asyncio.to_thread(model.begun.wait, 10)
    running.cancel()
    model.release.set()
    assert await _values(pool.submit(model.work(2))) == [4]
    assert pool.pending == 0


async def test_several_threads_work_at_once(make: Callable[..., WorkerPool]) -> None:
    """As many runs are made at once as there are threads."""
    barrier = threading.Barrier(2, timeout=10)

    class Meeting:
        def run(self, _inputs: Mapping[str, Any], _names: Sequence[str]) -> tuple[Any, ...]:
            return (np.array([barrier.wait()]),)

    pool = make(threads=2)
    outcomes = await asyncio.gather(*(pool.submit(Work(Meeting(), {}, [])) for _ in range(2)))
    assert sorted(int(one.results[0][0]) for one in outcomes) == [0, 1]


async def test_closing_lets_accepted_work_end(model: Model) -> None:
    """After `close` nothing is accepted; what was accepted has run."""
    pool = WorkerPool(1, 4)
    model.release.set()
    accepted = [pool.submit(model.work(number)) for number in range(3)]
    pool.close(10)
    assert [await _values(one) for one in accepted] == [[0], [2], [4]]
    with pytest.raises(Overloaded, match="being unloaded"):
        pool.submit(model.work(1))


def test_closing_does_not_wait_for_ever(model: Model) -> None:
    """A run that does not end holds up the end for the given time only; its loop may be gone by then."""
    pool = WorkerPool(1, 0)

    async def leave_behind() -> None:
        pool.submit(model.work(1))

    asyncio.run(leave_behind())
    started_s = time.monotonic()
    pool.close(0.05)
    assert 0.04 < time.monotonic() - started_s < 2
    assert pool.alive == 1
    model.release.set()
    pool.close(10)
    assert pool.alive == 0


async def test_an_idle_thread_keeps_nothing_alive(make: Callable[..., WorkerPool]) -> None:
    """The tensors of the last request are freed although no other request follows."""

    class Forgetful:
        def run(self, _inputs: Mapping[str, Any], _names: Sequence[str]) -> tuple[Any, ...]:
            return (np.zeros(1),)

    class Marker: ...

    pool, marker = make(), Marker()
    alive = weakref.ref(marker)
    await pool.submit(Work(Forgetful(), {"x": marker}, []))  # type: ignore[dict-item]  # anything that can be watched
    del marker
    for _ in range(100):
        gc.collect()
        if alive() is None:
            break
        await asyncio.sleep(0.01)
    assert alive() is None


# Batches


async def _behind(pool: WorkerPool, model: Model, works: list[Work]) -> list[asyncio.Future[Any]]:
    """Hand in these while the only thread is busy with another request, then let it go."""
    first = pool.submit(model.work(0))
    await asyncio.to_thread(model.begun.wait, 10)
    futures = [pool.submit(work) for work in works]
    model.release.set()
    await first
    await asyncio.wait(futures)
    return futures


async def test_what_waits_together_runs_together(make: Callable[..., WorkerPool], model: Model) -> None:
    """Requests of one key share a run up to the largest batch, each gets its rows, and the run is counted once."""
    works = [model.work(1, key="k"), model.work(2, 3, key="k"), model.work(4, key="k"), model.work(5, 6, key="k")]
    futures = await _behind(make(max_rows=5), model, works)
    assert model.batches == [1, 4, 2]
    assert [await _values(one) for one in futures] == [[2], [4, 6], [8], [10, 12]]
    assert [len(one.result().executions) for one in futures] == [1, 0, 0, 1]
    assert futures[0].result().executions[0].rows == 4


async def test_what_differs_is_not_mixed(make: Callable[..., WorkerPool], model: Model) -> None:
    """Other keys, and requests without one, keep their own runs and their order."""
    works = [model.work(1, key="a"), model.work(2), model.work(3, key="b"), model.work(4, key="a"), model.work(5)]
    futures = await _behind(make(max_rows=8), model, works)
    assert model.batches == [1, 2, 1, 1, 1]
    assert [await _values(one) for one in futures] == [[2], [4], [6], [8], [10]]


async def test_a_neighbours_failure_is_his_own(make: Callable[..., WorkerPool], model: Model) -> None:
    """If a batch fails, its requests are run one by one: only the bad one fails."""
    futures = await _behind(make(max_rows=8), model, [model.work(value, key="k") for value in (1, -1, 2)])
    assert [await _values(futures[index]) for index in (0, 2)] == [[2], [4]]
    with pytest.raises(InferenceFailed):
        futures[1].result()


async def test_outputs_without_the_batchs_rows(make: Callable[..., WorkerPool], model: Model) -> None:
    """Where an output has not one row per row of the inputs, nobody gets another's part of it."""

    class Summing(Model):
        def run(self, inputs: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
            return (super().run(inputs, names)[0].sum(keepdims=True),)

    summing = Summing()
    futures = await _behind(make(max_rows=8), summing, [summing.work(value, key="k") for value in (1, 2)])
    assert [await _values(one) for one in futures] == [[2], [4]]
    assert model.batches == []


async def test_waiting_for_a_batch(make: Callable[..., WorkerPool], model: Model) -> None:
    """With a wait set, a second thread's worker lets its batch grow; a lone request is not kept waiting."""
    pool = make(threads=2, max_rows=3, wait_s=5.0)
    model.release.set()
    started_s = time.monotonic()
    assert await _values(pool.submit(model.work(1, key="k"))) == [2]
    assert time.monotonic() - started_s < 2
    model.release.clear()
    model.begun.clear()
    blocker = pool.submit(model.work(9))
    await asyncio.to_thread(model.begun.wait, 10)
    futures = []
    for value in (1, 2, 3):
        futures.append(pool.submit(model.work(value, key="k")))
        await asyncio.sleep(0.02)
    model.release.set()
    assert [await _values(one) for one in (*futures, blocker)] == [[2], [4], [6], [18]]
    assert 3 in model.batches


async def test_the_wait_ends(make: Callable[..., WorkerPool], model: Model) -> None:
    """A batch that does not fill is run when its time is over, or when something else wants the thread."""
    pool = make(threads=2, max_rows=3, wait_s=0.05)
    blocker = pool.submit(model.work(9))
    await asyncio.to_thread(model.begun.wait, 10)
    lonely = pool.submit(model.work(1, key="k"))
    await asyncio.sleep(0.2)
    model.release.set()
    assert await _values(lonely) == [2]
    assert await _values(blocker) == [18]
    waits = make(threads=2, max_rows=3, wait_s=5.0)
    model.release.clear()
    model.begun.clear()
    blocker = waits.submit(model.work(9))
    await asyncio.to_thread(model.begun.wait, 10)
    started_s = time.monotonic()
    grows = waits.submit(model.work(1, key="k"))
    await asyncio.sleep(0.02)
    other = waits.submit(model.work(2))
    await asyncio.sleep(0.2)
    model.release.set()
    assert [await _values(one) for one in (grows, other, blocker)] == [[2], [4], [18]]
    assert time.monotonic() - started_s < 4
