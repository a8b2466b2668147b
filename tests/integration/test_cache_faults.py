"""A Redis that breaks under load: no request through the real transformer fails, and soon none pays for it."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
import redis
from held_port import held_port

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reference.simulate import Captures

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the program redis-server")

JSON_SIZE = "inference-header-content-length"
INFER = "/v2/models/localization/infer"
SETTLED_S = 0.5
"""By then three failures in a row have opened the breaker."""

ADDED_S = 0.015
"""What a Redis that is known to be broken may add. The middle of the durations is held against it here, because the
99th percentile of a busy machine is the machine's; `bench/transformer_cache.py` measures that."""


class Redis:
    """A Redis on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = held_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Let it answer."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--logfile", "log"]
        self.process = subprocess.Popen(command, cwd=self._folder)
        latest_s = time.monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < latest_s
                    time.sleep(0.01)
                else:
                    return

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        """Let it be gone, also when it was stopped by a signal."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def _stopped(server: Redis) -> Iterator[None]:
    server.kill()
    yield


@contextmanager
def _hung(server: Redis) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    yield


@contextmanager
def _full(server: Redis) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    yield


@contextmanager
def _garbage(server: Redis) -> Iterator[None]:
    """Somebody else answers on Redis' port, with bytes that are no reply."""
    server.kill()
    with socket.create_server(("127.0.0.1", server.port)) as listener:
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
    guests: list[socket.socket] = []
    while not ended.is_set():
        try:
            guest, _ = listener.accept()
            guests.append(guest)
            guest.sendall(b"\x00\xff nonsense\r\n" * 50)
        except (TimeoutError, ConnectionError):
            continue
    for guest in guests:
        guest.close()


class Client:
    """Sends captures that were never seen, one after the other."""

    def __init__(self, port: int, iq: Any) -> None:  # noqa: ANN401 - an array
        self._connection = HTTPConnection("127.0.0.1", port, timeout=20.0)
        encoded = encode_request(InferRequest((Tensor("iq", iq),), binary_output=True), binary=True)
        assert encoded.json_size is not None
        self._head, self._json_size = encoded.body[:-4], str(encoded.json_size)
        self._numbers = itertools.count(0x3A000000)  # as FP32: a sample of small magnitude

    def ask(self) -> tuple[int, float]:
        """Status and seconds of one request."""
        body = self._head + next(self._numbers).to_bytes(4, "little")
        began_s = time.perf_counter()
        self._connection.request("POST", INFER, body, {JSON_SIZE: self._json_size})
        response = self._connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - began_s

    def asks(self, seconds: float) -> tuple[set[int], float]:
        """The statuses of requests for so long, and the middle of their durations."""
        latest_s = time.monotonic() + seconds
        told = [self.ask()]
        while time.monotonic() < latest_s:
            told.append(self.ask())
        return {status for status, _ in told}, statistics.median(took_s for _, took_s in told)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis that each test starts and breaks."""
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def cached(predictor: Any, new_fleet: Any, store: Redis, tmp_path_factory: Any) -> Iterator[Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A transformer that keeps its answers there."""
    with new_fleet(tmp_path_factory.mktemp("cached")) as fleet:
        options = ("--redis_host", "127.0.0.1", "--redis_port", str(store.port))
        server = fleet.transformer(predictor.address, *options)
        server.wait_until(server.ready)
        yield server


@pytest.mark.parametrize("broken", [_stopped, _hung, _full, _garbage], ids=lambda fault: fault.__name__.strip("_"))
def test_no_request_fails_and_soon_none_waits(cached: Any, store: Redis, drawn: Captures, broken: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Each kind of fault: every answer is 200, and once the fault is known requests take no longer than before."""
    fault: AbstractContextManager[None] = broken(store)
    store.start()
    client = Client(cached.http_port, drawn.iq[:1])
    cached.wait_until(lambda: cached.infer(drawn.iq[1:2]).parameters["cached"] == "[true]", 20.0)
    statuses, usual_s = client.asks(0.7)
    with fault:
        first, _ = client.asks(SETTLED_S)
        later, broken_s = client.asks(0.7)
    store.kill()
    client.close()
    assert statuses | first | later == {200}
    assert broken_s < usual_s + ADDED_S


def test_redis_that_comes_back_is_used(cached: Any, store: Redis, drawn: Captures) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """After the fault there are hits again, and errors have been counted, never shown."""
    store.start()
    cached.wait_until(lambda: cached.infer(drawn.iq[2:3]).parameters["cached"] == "[true]", 30.0)
    metrics = cached.call("GET", "/metrics").body.decode()
    assert 'transformer_cache_events_total{event="error"}' in metrics
    assert 'code="5' not in metrics
