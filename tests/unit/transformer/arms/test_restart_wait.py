from __future__ import annotations

import asyncio
import time

import pytest

from transformer import restart_wait
from transformer.restart_wait import RestartWait

URL = "http://localhost:8081"


class Container:
    """A predictor that is back after so many questions."""

    def __init__(self, *, back_after: float) -> None:
        self.back_after = back_after
        self.asked: list[str] = []

    async def ready(self, base_url: str) -> bool:
        """Whether it is back."""
        self.asked.append(base_url)
        return len(self.asked) > self.back_after


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions in quick succession."""
    monkeypatch.setattr(restart_wait, "PAUSE_S", 0.001)


def _in(seconds: float) -> float:
    return time.monotonic() + seconds


async def test_nobody_waits_where_others_answer() -> None:
    """Without a longest wait, as in front of a service with replicas, nothing is even asked."""
    container = Container(back_after=0)
    assert not await RestartWait(container.ready, longest_s=0.0).over(URL, _in(5.0))
    assert container.asked == []


async def test_all_wait_for_the_same_return() -> None:
    """A hundred requests ask as often as one does, and all go on when the predictor is back."""
    container = Container(back_after=3)
    wait = RestartWait(container.ready, longest_s=30.0)
    assert all(await asyncio.gather(*(wait.over(URL, _in(30.0)) for _ in range(100))))
    assert container.asked == [URL] * 4


async def test_a_request_waits_no_longer_than_its_deadline() -> None:
    """A client that is in a hurry is told at once; the others go on waiting for the same return."""
    container = Container(back_after=float("inf"))
    wait = RestartWait(container.ready, longest_s=30.0)
    patient = asyncio.create_task(wait.over(URL, _in(30.0)))
    assert not await wait.over(URL, _in(0.02))
    assert not patient.done()
    container.back_after = 0
    assert await patient


async def test_a_long_absence_is_told_at_once_until_it_ends() -> None:
    """Time counts from the first request that missed the predictor, and anew after its return."""
    container = Container(back_after=float("inf"))
    wait = RestartWait(container.ready, longest_s=0.5)
    assert not await wait.over(URL, _in(30.0))
    second = asyncio.ensure_future(wait.over(URL, _in(30.0)))
    await asyncio.sleep(0)
    assert second.done()
    assert not second.result()
    container.back_after = 0
    await asyncio.sleep(0.1)
    container.asked.clear()
    container.back_after = 3
    assert await wait.over(URL, _in(30.0))


async def test_the_end_of_the_process_lets_everybody_go() -> None:
    """Who waits when the process ends is told that nobody came back, and no watch is left behind."""
    container = Container(back_after=float("inf"))
    wait = RestartWait(container.ready, longest_s=30.0)
    waiting = asyncio.create_task(wait.over(URL, _in(30.0)))
    await asyncio.sleep(0.02)
    await wait.close()
    assert not await asyncio.wait_for(waiting, 5.0)
    asked = len(container.asked)
    await asyncio.sleep(0.02)
    assert len(container.asked) == asked
