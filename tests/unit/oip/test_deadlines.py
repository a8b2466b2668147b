from __future__ import annotations

import asyncio
import time

import pytest

from oip.deadlines import Deadlines


async def _sleep(deadlines: Deadlines, deadline_s: float, seconds: float = 30.0) -> str:
    task = deadlines.enter(deadline_s)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return "expired" if deadlines.has_expired(task) else "cancelled"
    else:
        return "done"
    finally:
        deadlines.leave(task)


async def test_each_at_its_time() -> None:
    """One timer serves deadlines in any order, none before its time; who is done before is left alone."""
    deadlines, now_s = Deadlines(), time.monotonic()
    ended: list[tuple[float, float]] = []

    async def sleeper(offset_s: float) -> str:
        outcome = await _sleep(deadlines, now_s + offset_s)
        ended.append((offset_s, time.monotonic() - now_s))
        return outcome

    last, *tasks = (asyncio.ensure_future(sleeper(offset_s)) for offset_s in (30, 0.1, 0.05, 0.15, -1))
    tasks.append(asyncio.ensure_future(_sleep(deadlines, now_s + 20, 0.01)))
    async with asyncio.timeout(10):
        assert await asyncio.gather(*tasks) == ["expired", "expired", "expired", "expired", "done"]
    assert [offset_s for offset_s, _ in ended] == [-1, 0.05, 0.1, 0.15]
    assert all(at_s > offset_s - 0.001 for offset_s, at_s in ended)
    assert not last.done()
    last.cancel()
    assert await last == "cancelled"


async def test_a_task_goes_on_after_its_deadline() -> None:
    """The cancellation is taken back, so that an error can be answered."""
    deadlines = Deadlines()

    async def answer() -> bool:
        assert await _sleep(deadlines, time.monotonic() + 0.01) == "expired"
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        return task is not None and not task.cancelling()

    assert await asyncio.ensure_future(answer())


def test_outside_of_a_task() -> None:
    """There is nothing to cancel, which is a mistake of the caller."""
    loop = asyncio.new_event_loop()
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            Deadlines().enter(0.0)
        except RuntimeError as error:
            errors.append(error)
        loop.stop()

    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    with pytest.raises(RuntimeError, match="no task"):
        raise errors[0]
