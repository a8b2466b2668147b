from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
import uvloop

from oip.errors import Unavailable
from transformer.processing import INLINE_SAMPLES, Processing, Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


@pytest.fixture
async def processing() -> AsyncIterator[Processing]:
    """One thread, and place for one to wait."""
    made = Processing(threads=1, max_waiting=1)
    yield made
    made.stop()


class Rounds:
    """Counts the rounds of the event loop, and notes who begins in which.

    Attributes:
        now: The round that runs.
        begun: Round and number of each request, in order.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.now = 0
        self.begun: list[tuple[int, int]] = []

    async def request(self, number: int) -> None:
        """One request that begins when it may."""
        await self._turns.wait()
        self.begun.append((self.now, number))

    async def count(self, rounds: int) -> None:
        """Let so many rounds pass."""
        for _ in range(rounds):
            self.now += 1
            await asyncio.sleep(0)


def _run(main: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def test_a_burst_is_spread_over_rounds() -> None:
    """Of a burst four begin at once and four in each following round, in the order of their arrival."""

    async def main() -> None:
        rounds = Rounds(Turns(max_waiting=100))
        tasks = [asyncio.create_task(rounds.request(number)) for number in range(22)]
        await rounds.count(20)
        await asyncio.gather(*tasks)
        assert [number for _, number in rounds.begun] == list(range(22))
        each = [sum(one == now for now, _ in rounds.begun) for one in sorted({now for now, _ in rounds.begun})]
        assert each == [4, 4, 4, 4, 4, 2]

    _run(main())


def test_later_ones_do_not_overtake() -> None:
    """Who comes while others wait begins behind them, even if there is place in this round."""

    async def main() -> None:
        rounds = Rounds(Turns(max_waiting=100, in_a_round=2))
        tasks = []
        for number in range(12):
            tasks.append(asyncio.create_task(rounds.request(number)))
            if number % 3 == 0:
                await rounds.count(1)
        await asyncio.gather(*tasks)
        assert [number for _, number in rounds.begun] == list(range(12))

    _run(main())


def test_a_lone_request_does_not_wait() -> None:
    """Without a burst nobody waits a single round, however many requests there are."""

    async def main() -> None:
        turns = Turns(max_waiting=0, in_a_round=1)
        for _ in range(5):
            await turns.wait()  # would be refused if it had to wait
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    _run(main())


async def test_who_has_given_up_takes_no_turn() -> None:
    """A request that was cancelled while it waited leaves its turn to the next one."""
    turns = Turns(max_waiting=3, in_a_round=1)
    _, gone, next_one = (asyncio.create_task(turns.wait()) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(1.0):
        await next_one
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_who_has_left_makes_room() -> None:
    """A request whose client has gone frees its place at once, so that the next one is not refused."""
    turns = Turns(max_waiting=1, in_a_round=1)
    watched: list[asyncio.Future[None]] = []
    first, gone = asyncio.create_task(turns.wait()), asyncio.create_task(turns.wait(watched.append))

    async def late() -> None:
        watched[0].set_exception(ConnectionError("the client left"))
        await asyncio.wait([gone])
        await turns.wait()

    await asyncio.gather(first, late())
    with pytest.raises(ConnectionError):
        await gone


async def test_too_many_are_refused() -> None:
    """Beyond the places to wait a request is refused at once, and told to come again."""
    turns = Turns(max_waiting=2, in_a_round=1)
    tasks = [asyncio.create_task(turns.wait()) for _ in range(4)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:3] == [None, None, None]
    assert isinstance(outcomes[3], Unavailable)
    assert outcomes[3].retry_after_s == 1


async def test_place_by_size(processing: Processing) -> None:
    """Little is computed in the loop's own thread, much in another one."""
    small = await processing.features(INLINE_SAMPLES, threading.current_thread)
    large = await processing.features(INLINE_SAMPLES + 1, threading.current_thread)
    assert small is threading.current_thread()
    assert large.name.startswith("dsp")


async def test_threads_are_bounded(processing: Processing) -> None:
    """One computes, one waits, the third is refused; its place is free again when the others are done."""
    release = threading.Event()
    busy = [asyncio.create_task(processing.in_thread(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="queue"):
        await processing.in_thread(release.wait)
    release.set()
    assert await asyncio.gather(*busy) == [True, True]
    assert await processing.in_thread(release.wait)


async def test_errors_come_back(processing: Processing) -> None:
    """What goes wrong in the work is raised where it was asked for, wherever it was done."""

    def fail() -> None:
        raise LookupError("work")

    for samples in (1, INLINE_SAMPLES + 1):
        with pytest.raises(LookupError, match="work"):
            await processing.features(samples, fail)
