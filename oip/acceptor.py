"""A listening socket that takes every connection that is waiting, and loses none when it closes.

What belongs here: from the kernel's queue of new connections to a protocol. What does not: what is spoken on them
(`http_connection`) and when the process ends (`kserve_server`).

libuv, and with it uvloop's own server, accepts one connection in each round of the event loop. A round under load takes
tens of milliseconds, so the last of a hundred clients that come together was seen to wait for seconds. Here a round
accepts everything that is waiting.

The end has three steps, because the kernel resets the connections that nobody has accepted when a listener closes:

    refuse_new ──▶ (handshakes under way end) ──▶ close: accept what is there ──▶ no listener any more

Between the first two steps SYN packets are dropped by a filter on the socket. A client that comes then sends its SYN
again a second later (RFC 6298, section 2), finds the port closed, and knows that nothing was begun.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

BACKLOG = 2048
"""Connections that may wait to be accepted; as uvicorn has it. The kernel takes net.core.somaxconn if that is less."""

RECEIVE_BUFFER_BYTES = 512 * 1024
"""What a connection's socket holds while the loop is busy: two captures of [7,4480,2] FP32, so that a request arrives
in one piece. The kernel begins with 128 KiB and grows it for a reader that keeps up; under load none did, and a client
whose request did not fit waited 200 ms and more for its next attempt (TcpExtTCPWinProbe)."""

EXHAUSTED_PAUSE_S = 0.1
"""Without file descriptors accepting fails at once, again and again; after this long one may be free."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python's socket module does not name it
# Classic BPF on a TCP socket sees the packet from the TCP header on, whose byte 13 holds the flags (RFC 9293).
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load byte 13
    (0x45, 0, 1, 0x02),  # if SYN is set go on, else skip one
    (0x06, 0, 0, 0),  # keep nothing of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
)

logger = logging.getLogger(__name__)


class Acceptor:
    """Accepts on sockets that listen already; in the place of an `asyncio.Server`.

    Args:
        sockets: To accept on; they are closed with this.
        protocol: Makes the protocol of one connection.
        tls: For connections over TLS; None for plain ones.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._protocol = protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        for one in self._sockets:
            one.setblocking(False)
            self._loop.add_reader(one, self._accept, one)

    def refuse_new(self) -> None:
        """Let no connection begin any more, where the system can do that; handshakes under way still end."""
        for one in self._sockets:
            try:
                attach_filter(one, _DROP_SYN)
            except OSError as error:  # a sandbox such as gVisor
                logger.info("connections cannot be kept from beginning: %s", error)

    def close(self) -> None:
        """Accept what is waiting, then stop listening; called again, it does nothing."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            self._accept(one)
            self._loop.remove_reader(one)
            one.close()

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has its protocol."""
        while self._beginning:
            await asyncio.wait(self._beginning)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _address = listener.accept()
            except ConnectionAbortedError:  # gone while it waited
                continue
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(listener, error)
                return
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _failed(self, listener: socket.socket, error: OSError) -> None:
        logger.error("a connection cannot be accepted: %s", error)
        if error.errno not in _EXHAUSTED:
            return
        self._loop.remove_reader(listener)
        self._loop.call_later(EXHAUSTED_PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener, self._accept, listener)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except OSError as error:  # ssl.SSLError is one: a client that does not speak TLS
            logger.info("a connection ended before it began: %s", error)
            connection.close()


def listening(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; raises `OSError` where it cannot."""
    listener = socket.create_server((host, port), backlog=BACKLOG)
    if _may_receive(RECEIVE_BUFFER_BYTES):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # connections inherit it
    return listener


def _may_receive(size: int) -> bool:
    """Whether net.core.rmem_max allows such a buffer; a smaller one is worse than the kernel's own, which grows."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * size  # Linux counts its own overhead in


def attach_filter(one: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Let the kernel run a classic BPF program on every packet for a socket (man 7 socket, SO_ATTACH_FILTER).

    Args:
        one: The socket.
        program: Instructions (code, jump if true, jump if false, operand), as `struct sock_filter`.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(code)  # must live until the call has copied it
    fprog = struct.pack("HP", len(program), ctypes.addressof(instructions))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
