from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from transformer.loop_time_limit import LoopTimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on each of the two loops."""
    runner: Run = request.param
    return runner


def test_silence_ends_after_the_limit(run: Run) -> None:
    """A neighbour that says nothing costs the limit, not the minute that it would take."""

    async def main() -> None:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            async with LoopTimeLimit(0.02):
                await asyncio.sleep(60)
        assert 0.018 < time.monotonic() - began_s < 5.0

    run(main())


def test_an_answer_that_waits_in_the_socket_is_in_time(run: Run) -> None:
    """An answer that came while this process was busy for five times the limit is read, not called late."""

    async def main() -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        async with LoopTimeLimit(0.01):
            asyncio.get_running_loop().call_soon(time.sleep, 0.05)
            there.sendall(b"answer\n")
            assert await reader.readline() == b"answer\n"
        writer.close()
        await writer.wait_closed()
        there.close()

    run(main())


def test_each_step_has_rounds_of_its_own(run: Run) -> None:
    """On a busy loop the second step's answer is read too, though the first took longer than the limit."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def busy() -> None:
            time.sleep(0.01)
            hog[:] = [loop.call_soon(busy)]

        hog = [loop.call_soon(busy)]
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        for _ in range(5):
            async with LoopTimeLimit(0.01) as limit:
                for _ in range(3):
                    await asyncio.sleep(0)
                limit.next_step()
                there.sendall(b"answer\n")
                for _ in range(3):
                    await asyncio.sleep(0)
                assert await reader.readline() == b"answer\n"
        hog[0].cancel()
        writer.close()
        await writer.wait_closed()
        there.close()

    run(main())


def test_steps_share_the_limit(run: Run) -> None:
    """On an idle loop two steps cost no more than one: a neighbour that says nothing after the first is given up."""

    async def two_steps() -> None:
        async with LoopTimeLimit(0.2) as limit:
            await asyncio.sleep(0.17)
            limit.next_step()
            await asyncio.sleep(60)

    async def main() -> None:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            await two_steps()
        assert 0.18 < time.monotonic() - began_s < 0.3

    run(main())


@pytest.mark.parametrize("rounds", range(12))
def test_a_step_that_ends_when_the_limit_is_reached(run: Run, rounds: int) -> None:
    """However many rounds the first step took, the second one is given up, with nothing left behind."""

    async def two_steps() -> None:
        async with LoopTimeLimit(0.0) as limit:
            for _ in range(rounds):
                await asyncio.sleep(0)
            limit.next_step()
            await asyncio.sleep(60)

    async def main() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        with pytest.raises(TimeoutError):
            await two_steps()
        await asyncio.sleep(0.02)
        assert not complaints

    run(main())


def test_nothing_is_left_after_an_answer_in_time(run: Run) -> None:
    """The timer of an exchange that is over does not hit what comes next."""

    async def main() -> None:
        async with LoopTimeLimit(0.01):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)

    run(main())


def test_errors_and_cancellations_pass(run: Run) -> None:
    """What goes wrong within the limit is not turned into a timeout."""

    async def main() -> None:
        with pytest.raises(OSError, match="broken"):
            async with LoopTimeLimit(1.0):
                raise OSError("broken")
        task = asyncio.create_task(_wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def _wait() -> None:
        async with LoopTimeLimit(1.0):
            await asyncio.sleep(60)

    run(main())
