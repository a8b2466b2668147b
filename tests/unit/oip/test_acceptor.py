from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from oip import acceptor as module
from oip.acceptor import Acceptor, listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


RMEM_MAX = int(Path("/proc/sys/net/core/rmem_max").read_text())


class Greeter(asyncio.Protocol):
    """Says one byte to everybody and keeps the connection."""

    def __init__(self, greeted: list[Greeter]) -> None:
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # asyncio promises one
        self._greeted.append(self)
        self.transport.write(b"!")


class Rig:
    """A listener with an acceptor, and clients that do not need the event loop to connect."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.listener = listening("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        self.greeted: list[Greeter] = []
        self.acceptor = Acceptor([self.listener], lambda: Greeter(self.greeted), tls)
        self.clients: list[socket.socket] = []

    def connect(self, count: int = 1) -> None:
        """Connect; the kernel does that alone."""
        for _ in range(count):
            self.clients.append(socket.create_connection(self.address, timeout=0.3))

    async def until_greeted(self, count: int) -> None:
        """Wait until so many have their protocol."""
        async with asyncio.timeout(10):
            while len(self.greeted) < count:  # noqa: ASYNC110 - the acceptor tells nobody
                await asyncio.sleep(0.001)

    def heard(self) -> list[bytes]:
        """What each client was told; b"reset" for a reset."""
        words = []
        for client in self.clients:
            try:
                words.append(client.recv(1))
            except ConnectionResetError:
                words.append(b"reset")
        return words

    async def end(self) -> None:
        """Close everything."""
        self.acceptor.close()
        await self.acceptor.wait_closed()
        for greeter in self.greeted:
            greeter.transport.abort()
        for client in self.clients:
            client.close()
        await asyncio.sleep(0.01)


def run(test: Callable[[Rig], Awaitable[None]], make: Callable[[], Rig] = Rig) -> None:
    """Run a test on the loop that the servers have."""

    async def main() -> None:
        rig = make()
        try:
            await test(rig)
        finally:
            await rig.end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_burst_is_accepted_in_few_rounds() -> None:
    """Fifty connections that wait together are served in a handful of rounds, not in fifty."""

    async def test(rig: Rig) -> None:
        rig.connect(50)
        for _ in range(6):
            await asyncio.sleep(0)
        assert len(rig.greeted) == 50

    run(test)


@pytest.mark.parametrize("factor", [1, 1024])
def test_sockets_hold_a_request(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    """Connections inherit a buffer for a whole request; where the system grants less, the kernel's own is kept."""
    wanted = module.RECEIVE_BUFFER_BYTES * factor
    monkeypatch.setattr(module, "RECEIVE_BUFFER_BYTES", wanted)

    async def test(rig: Rig) -> None:
        rig.connect()
        await rig.until_greeted(1)
        size = rig.greeted[0].transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if wanted <= RMEM_MAX:
            assert size == 2 * wanted  # Linux counts its own overhead in
        else:
            with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_connection(plain.getsockname()):
                accepted, _ = plain.accept()
                with accepted:
                    assert size == accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    run(test)


def test_closing_loses_no_connection() -> None:
    """Connections that wait when the listener closes are accepted first; without that the kernel resets them."""

    async def test(rig: Rig) -> None:
        rig.connect(20)
        rig.acceptor.close()
        rig.acceptor.close()
        await rig.acceptor.wait_closed()
        assert rig.heard() == [b"!"] * 20
        with pytest.raises(ConnectionRefusedError):
            rig.connect()

    run(test)
    with socket.create_server(("127.0.0.1", 0)) as plain:  # what this is there for
        client = socket.create_connection(plain.getsockname())
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


def test_no_new_handshakes() -> None:
    """Once refused, nobody connects any more, but who has connected before is served, before and after the close."""

    async def test(rig: Rig) -> None:
        rig.connect(2)
        rig.acceptor.refuse_new()
        with pytest.raises(TimeoutError):
            rig.connect()
        rig.acceptor.close()
        await rig.acceptor.wait_closed()
        assert rig.heard() == [b"!"] * 2

    run(test)


def test_a_kernel_without_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no such filter, the end goes on without."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "not here")

    async def test(rig: Rig) -> None:
        monkeypatch.setattr(module, "attach_filter", fail)
        rig.acceptor.refuse_new()
        rig.connect()
        await rig.until_greeted(1)
        assert rig.heard() == [b"!"]

    run(test)


class Failing:
    """A listening socket whose next calls of `accept` fail.

    Attributes:
        errors: What they raise, one after the other.
    """

    def __init__(self, listener: socket.socket, *errors: OSError) -> None:
        self._listener = listener
        self.errors = list(errors)

    def accept(self) -> tuple[socket.socket, object]:
        """See `socket.socket`."""
        if self.errors:
            raise self.errors.pop(0)
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EPERM, "firewall"), ConnectionAbortedError()],
)
def test_failures_pass(error: OSError) -> None:
    """Whatever makes one `accept` fail, those who wait are accepted a moment later."""

    def make() -> Rig:
        rig = Rig()
        rig.acceptor.close()
        again = listening("127.0.0.1", 0)
        rig.address = again.getsockname()
        rig.acceptor = Acceptor([Failing(again, error)], lambda: Greeter(rig.greeted))  # type: ignore[list-item]  # plays one
        return rig

    async def test(rig: Rig) -> None:
        rig.connect(2)
        await rig.until_greeted(2)
        assert rig.heard() == [b"!"] * 2

    run(test, make)


def test_a_client_that_speaks_no_tls() -> None:
    """It is hung up on, and disturbs nobody."""

    async def test(rig: Rig) -> None:
        rig.connect()
        rig.clients[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        await rig.acceptor.wait_closed()
        await asyncio.sleep(0.05)
        assert rig.greeted == []

    run(test, lambda: Rig(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
