"""A real rollout's statuses, a small API server, and predictors that die in different ways."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from transformer.kubernetes_api import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Until = Callable[[Callable[[], bool]], Awaitable[None]]
    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Served = Callable[[Handler], AbstractAsyncContextManager[str]]
    Dying = Callable[[bytes], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def rollout() -> list[dict[str, Any]]:
    """The InferenceService at every step of a rollout that took place on a real cluster."""
    document = json.loads((Path(__file__).parent / "rollout.json").read_text(encoding="utf-8"))
    objects: list[dict[str, Any]] = document["objects"]
    return objects


class ApiServer:
    """Plays the API server for one InferenceService: a list, and watches that a test feeds with events."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.version = "1"
        self.refuse_with: int | None = None
        self.requests: list[web.Request] = []
        self.watches = 0
        self._events: asyncio.Queue[dict[str, Any] | bytes | None] = asyncio.Queue()

    def send(self, kind: str, thing: dict[str, Any]) -> None:
        """One event to the watch that is open, or to the next one."""
        self._events.put_nowait({"type": kind, "object": thing})

    def send_raw(self, line: bytes) -> None:
        """Bytes that are no event."""
        self._events.put_nowait(line)

    def hang_up(self) -> None:
        """End the watch."""
        self._events.put_nowait(None)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or a watch."""
        self.requests.append(request)
        if self.refuse_with is not None:
            return web.json_response({"kind": "Status", "code": self.refuse_with}, status=self.refuse_with)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": self.version}, "items": self.objects})
        self.watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self._events.get()) is not None:
            await response.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def _served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def api() -> ApiServer:
    """An API server that is not listening yet; `cluster` makes it listen."""
    return ApiServer()


@pytest.fixture
async def cluster(api: ApiServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose API server is `api`."""
    (tmp_path / "token").write_text("first\n")
    async with _served(api.handle) as url:
        yield Cluster(url, "radio", tmp_path / "token", tmp_path / "ca.crt")


@pytest.fixture
def served() -> Served:
    """Serve a handler of aiohttp on loopback, in a context whose value is the URL."""
    return _served


@pytest.fixture
def dying() -> Dying:
    """Serve bytes after every request and then die, in a context whose value is the URL."""

    @asynccontextmanager
    async def serve(last_words: bytes) -> AsyncIterator[str]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(last_words)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    return serve


@pytest.fixture
def refused_url() -> str:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def until() -> Until:
    """Waits for a condition, at most twenty seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        latest_s = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < latest_s, "the condition was not met in time"
            await asyncio.sleep(0.005)

    return wait
