from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

CLIENTS = 8
DRAIN_S = 0.5
REQUEST = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"


def _ask_until_the_end(port: int, ended: threading.Event) -> Counter[str]:
    """Connection after connection, each with one request, until the server has ended; how each one went."""
    went: Counter[str] = Counter()
    while not ended.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
                try:
                    connection.sendall(REQUEST)
                    answer = connection.recv(1 << 16)
                    went[answer[:12].decode() or "closed without an answer"] += 1
                except OSError as error:
                    went[type(error).__name__] += 1
        except ConnectionRefusedError:
            went["refused"] += 1
            time.sleep(0.005)
    return went


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_no_connection_is_reset(fleet: Any, model_dir: Any, component: str) -> None:  # noqa: ANN401 - conftest.py
    """SIGTERM while eight clients open connections without a pause, before, in and after the moment of closing.

    Each connection is answered in full or refused. Without care the kernel resets those that nobody has accepted by
    then, and closing resets those whose request has not been read.
    """
    server = fleet.predictor(model_dir("reference"), "--drain_s", str(DRAIN_S))
    if component == "transformer":
        server = fleet.transformer(server.address, "--drain_s", str(DRAIN_S))
    ended = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(_ask_until_the_end, server.http_port, ended) for _ in range(CLIENTS)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        time.sleep(0.1)
        ended.set()
        went = sum((client.result(20) for client in clients), Counter[str]())
    assert set(went) == {"HTTP/1.1 200", "refused"}
    assert went["HTTP/1.1 200"] > 50


def test_a_late_first_request_is_heard(fleet: Any, model_dir: Any) -> None:  # noqa: ANN401 - conftest.py
    """A client that connected just before the end, and asks a moment after the port is closed, is answered."""
    server = fleet.predictor(model_dir("reference"), "--drain_s", "1")
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: not server.ready(), 1.0)
    connections = [socket.create_connection(("127.0.0.1", server.http_port), timeout=5.0) for _ in range(5)]
    server.wait_until(lambda: _is_closed(server.http_port))
    for connection in connections:
        connection.sendall(REQUEST)
    for connection in connections:
        with connection:
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer
    assert server.process.wait(20) == 0


def _is_closed(port: int) -> bool:
    """Whether nobody listens any more; a handshake that is not answered, as at the end, is given up soon."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.1):
            return False
    except TimeoutError:
        return False
    except ConnectionRefusedError:
        return True


def test_a_silent_connection_is_not_waited_for(fleet: Any, model_dir: Any) -> None:  # noqa: ANN401 - conftest.py
    """A connection that never asks anything holds the end up for a second, and not for the grace period."""
    server = fleet.predictor(model_dir("reference"), "--drain_s", "0.1")
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10.0) as silent:
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert silent.recv(1) == b""
        assert server.process.wait(5) == 0
