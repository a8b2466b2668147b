"""A Redis for the benchmarks, and the ways in which it can be broken.

What belongs here: the server, and one context manager for each fault. What does not: what is measured meanwhile.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis on this port, which is gone afterwards even if it was stopped by a signal."""
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--logfile", "log"]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            with redis.Redis(port=port) as client:
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        time.sleep(0.01)
            yield process
        finally:
            process.kill()


@contextmanager
def _stopped(process: subprocess.Popen[bytes], _port: int) -> Iterator[None]:
    """Connections are refused."""
    process.kill()
    process.wait()
    yield


@contextmanager
def _hung(process: subprocess.Popen[bytes], _port: int) -> Iterator[None]:
    """Connections are accepted, and nothing is ever said."""
    process.send_signal(signal.SIGSTOP)
    yield


@contextmanager
def _full(_process: subprocess.Popen[bytes], port: int) -> Iterator[None]:
    """It answers what it holds and stores nothing more."""
    with redis.Redis(port=port) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    yield


@contextmanager
def _garbage(process: subprocess.Popen[bytes], port: int) -> Iterator[None]:
    """Somebody else answers, with bytes that are no reply."""
    process.kill()
    process.wait()
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.1)
        ended = threading.Event()
        impostor = threading.Thread(target=_babble, args=(listener, ended))
        impostor.start()
        try:
            yield
        finally:
            ended.set()
            impostor.join()


def _babble(listener: socket.socket, ended: threading.Event) -> None:
    with ExitStack() as guests:
        while not ended.is_set():
            try:
                guest, _ = listener.accept()
                guests.enter_context(guest).sendall(b"\x00\xff nonsense\r\n" * 50)
            except (TimeoutError, ConnectionError):
                continue


FAULTS = {"stopped": _stopped, "hung": _hung, "full": _full, "garbage": _garbage}
