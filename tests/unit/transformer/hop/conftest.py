"""Servers that say exactly what a test wants them to, byte by byte."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from transformer.http_client import HttpClient, Origin, origin_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DIE = b""


class Scripted:
    """A server whose connections answer every request with the next words; `b""` closes instead.

    Attributes:
        requests: What each connection was sent, by the connection's number.
        ended: Numbers of the connections that the client has closed.
        origin: Where it is.
    """

    def __init__(self, *words: bytes) -> None:
        self._words = list(words)
        self.requests: list[list[bytes]] = []
        self.ended: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.origin: Origin

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        number = len(self.requests)
        self.requests.append([])
        self.writers.append(writer)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                self.requests[number].append(request)
                words = self._words.pop(0) if self._words else OK
                if words == DIE:
                    break
                writer.write(words)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.append(number)
        writer.close()


if TYPE_CHECKING:
    Script = Callable[..., AbstractAsyncContextManager[Scripted]]


@pytest.fixture
def script() -> Script:
    """Starts a scripted server, in a context."""

    @asynccontextmanager
    async def started(*words: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
        server = Scripted(*words)
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listening:
            scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
            server.origin = origin_of(f"{scheme}://{host}:{listening.sockets[0].getsockname()[1]}")
            yield server
            for writer in server.writers:
                writer.close()

    return started


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client that connects within half a second."""
    made = HttpClient(connect_timeout_s=0.5)
    yield made
    await made.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with the key and the self-signed certificate of "localhost"."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl makes the certificate of this test"
    both = tmp_path / "both.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return both
