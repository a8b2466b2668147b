"""The programs of this folder as modules, and services to put under their load."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # where Python puts it too, when one of the programs is run


@pytest.fixture(scope="session")
def prove() -> Path:
    """The program of the long proofs."""
    return HERE / "prove.py"


@pytest.fixture(scope="session")
def small_captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two captures of one receiver with eight samples."""
    path = tmp_path_factory.mktemp("captures") / "captures.npy"
    np.save(path, np.random.default_rng(5).normal(scale=0.1, size=(2, 1, 8, 2)).astype(np.float32))
    return path


class Stalling:
    """A server that answers at once, but for one span of time in which it keeps everybody waiting.

    Attributes:
        port: On 127.0.0.1.
        stall_s: How long, from the first request `stall_after_s` after the first of all.
    """

    def __init__(self, stall_after_s: float, stall_s: float) -> None:
        self.stall_after_s, self.stall_s = stall_after_s, stall_s
        self.port = 0
        self._begun_s = 0.0

    @property
    def stall_begins_s(self) -> float:
        """When the stall begins, by the monotonic clock."""
        return self._begun_s + self.stall_after_s

    async def answer(self, _: web.Request) -> web.Response:
        """One request."""
        now_s = asyncio.get_running_loop().time()
        self._begun_s = self._begun_s or now_s
        begin_s = self.stall_begins_s
        if begin_s <= now_s < begin_s + self.stall_s:
            await asyncio.sleep(begin_s + self.stall_s - now_s)
        return web.Response(body=b'{"_cache_hit":false}')

    async def serve(self, ready: threading.Event, ended: asyncio.Event) -> None:
        """Serve until told to end."""
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{path:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(runner.addresses[0][1])
        ready.set()
        await ended.wait()
        await runner.cleanup()


@contextmanager
def _serving(server: Stalling) -> Iterator[Stalling]:
    ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve(ready, ended)))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    """Stalls for one second, half a second after its first request."""
    with _serving(Stalling(0.5, 1.0)) as server:
        yield server


@pytest.fixture
def prompt() -> Iterator[Stalling]:
    """Never stalls."""
    with _serving(Stalling(0.0, 0.0)) as server:
        yield server
