from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from transformer.single_flight import Flown, SingleFlight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Blame(Exception):
    """The work itself is to blame."""


class Work:
    """Computes a key's text in capitals, when it is let; fails as it is told."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.calls: list[tuple[bytes, ...]] = []
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self, keys: Sequence[bytes]) -> list[bytes]:
        """Wait for the gate, then answer or fail."""
        self.calls.append(tuple(keys))
        failure = self.failures.pop(0) if self.failures else None
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if failure:
            raise failure
        return [key.upper() for key in keys]


@pytest.fixture(autouse=True)
async def _nothing_unheard() -> AsyncIterator[None]:
    """Fail a test after which the loop had to complain, for example of an exception that nobody retrieved."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    await _turns()
    gc.collect()
    assert complaints == []


@pytest.fixture
def flights() -> SingleFlight[bytes]:
    """Nothing in flight."""
    return SingleFlight((Blame,))


async def _turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _ask(flights: SingleFlight[bytes], keys: list[bytes], work: Work) -> asyncio.Task[Flown[bytes]]:
    task = asyncio.create_task(flights.run(keys, work))
    await _turns()
    return task


async def test_equal_keys_are_computed_once(flights: SingleFlight[bytes]) -> None:
    """A hundred requests for one key make one computation, and say who only waited."""
    work = Work()
    tasks = [await _ask(flights, [b"a"], work) for _ in range(100)]
    assert b"a" in flights
    work.gate.set()
    flown = await asyncio.gather(*tasks)
    assert work.calls == [(b"a",)]
    assert {one.values[b"a"] for one in flown} == {b"A"}
    assert [len(one.joined) for one in flown] == [0] + [1] * 99
    assert b"a" not in flights


async def test_a_batch_leads_what_nobody_computes_and_joins_the_rest(flights: SingleFlight[bytes]) -> None:
    """Overlapping batches wait for each other's parts without deadlock; each key is computed once."""
    work = Work()
    first = await _ask(flights, [b"a", b"b"], work)
    second = await _ask(flights, [b"c", b"b", b"d"], work)
    third = await _ask(flights, [b"d", b"a"], work)
    work.gate.set()
    assert (await first).values == {b"a": b"A", b"b": b"B"}
    assert await second == Flown({b"c": b"C", b"b": b"B", b"d": b"D"}, frozenset([b"b"]))
    assert await third == Flown({b"d": b"D", b"a": b"A"}, frozenset([b"d", b"a"]))
    assert work.calls == [(b"a", b"b"), (b"c", b"d")]


async def test_results_are_not_kept(flights: SingleFlight[bytes]) -> None:
    """What has landed is computed again: remembering is the store's business."""
    work = Work()
    work.gate.set()
    await flights.run([b"a"], work)
    await flights.run([b"a"], work)
    assert len(work.calls) == 2


async def test_the_computation_outlives_the_request_that_started_it(flights: SingleFlight[bytes]) -> None:
    """When the leader's client hangs up, those who wait still get the result of the same computation."""
    work = Work()
    leader, waiter = await _ask(flights, [b"a"], work), await _ask(flights, [b"a"], work)
    leader.cancel()
    await _turns()
    assert leader.cancelled()
    work.gate.set()
    assert (await waiter).values == {b"a": b"A"}
    assert len(work.calls) == 1


async def test_the_last_to_leave_calls_it_off(flights: SingleFlight[bytes]) -> None:
    """A computation that nobody waits for any more is cancelled, and whoever comes then starts a new one."""
    work = Work()
    tasks = [await _ask(flights, [b"a"], work) for _ in range(3)]
    for task in tasks:
        assert not work.cancelled
        task.cancel()
        await _turns()
    assert work.cancelled == 1
    assert b"a" not in flights


async def test_nobody_boards_what_is_being_called_off(flights: SingleFlight[bytes]) -> None:
    """A request that comes in the moment of the cancellation computes by itself."""
    work = Work()
    leader = await _ask(flights, [b"a"], work)
    leader.cancel()
    late = asyncio.create_task(flights.run([b"a"], work))
    work.gate.set()
    assert (await late).values == {b"a": b"A"}


async def test_a_waiter_that_leaves_disturbs_nobody(flights: SingleFlight[bytes]) -> None:
    """When a waiter's client hangs up, the leader's computation goes on."""
    work = Work()
    leader, waiter = await _ask(flights, [b"a"], work), await _ask(flights, [b"a"], work)
    waiter.cancel()
    await _turns()
    work.gate.set()
    assert (await leader).values == {b"a": b"A"}
    assert not work.cancelled


async def test_a_failure_that_is_the_leaders_own_is_not_inherited(flights: SingleFlight[bytes]) -> None:
    """When the leader runs out of time, one of those who wait computes for all of them."""
    work = Work(TimeoutError("the leader's own"))
    tasks = [await _ask(flights, [b"a"], work) for _ in range(10)]
    work.gate.set()
    with pytest.raises(TimeoutError, match="own"):
        await tasks[0]
    assert {(await task).values[b"a"] for task in tasks[1:]} == {b"A"}
    assert len(work.calls) == 2


async def test_after_two_failures_of_others_a_request_computes_alone(flights: SingleFlight[bytes]) -> None:
    """Nobody waits for one failure after the other: the third computation is one's own, and its error too."""
    work = Work(*(OSError(str(number)) for number in range(1, 11)))
    work.gate.set()
    outcomes = await asyncio.gather(*(flights.run([b"a"], work) for _ in range(10)), return_exceptions=True)
    assert sorted(int(str(outcome)) for outcome in outcomes) == list(range(1, 11))


async def test_the_works_own_failure_is_shared(flights: SingleFlight[bytes]) -> None:
    """An answer of the model that makes no sense makes none for those who waited either: one computation, one error."""
    work = Work(Blame("nonsense"))
    tasks = [await _ask(flights, [b"a"], work) for _ in range(10)]
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Blame] * 10
    assert len(work.calls) == 1


async def test_a_batchs_failure_is_not_blamed_on_each_of_its_items(flights: SingleFlight[bytes]) -> None:
    """One item that fails a batch of the leader's does not fail the waiter of another item."""
    work = Work(Blame("b is nonsense"))
    leader, waiter = await _ask(flights, [b"a", b"b"], work), await _ask(flights, [b"a"], work)
    work.gate.set()
    with pytest.raises(Blame):
        await leader
    assert (await waiter).values == {b"a": b"A"}


async def test_a_computation_cancelled_from_outside_is_tried_again(flights: SingleFlight[bytes]) -> None:
    """Work that ends in a cancellation of its own, such as a closing pool's, does not cancel those who wait."""
    work = Work(asyncio.CancelledError())  # type: ignore[arg-type]  # no Exception, which is the point
    leader, waiter = await _ask(flights, [b"a"], work), await _ask(flights, [b"a"], work)
    work.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert (await waiter).values == {b"a": b"A"}


async def test_a_failure_that_everybody_has_left_is_not_complained_about(flights: SingleFlight[bytes]) -> None:
    """A computation that answers its cancellation with an error leaves nothing unheard in the loop."""

    async def stubborn(_keys: Sequence[bytes]) -> list[bytes]:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("while cleaning up")

    task = asyncio.create_task(flights.run([b"a"], stubborn))
    await _turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _turns()
