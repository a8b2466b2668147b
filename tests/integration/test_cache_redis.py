"""The answer cache on a real Redis, in good days and in every kind of bad one."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import redis
import uvloop
from held_port import held_port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transformer.answer_cache import AnswerCache, ComputedAnswer
from transformer.answer_store import StoreFailed
from transformer.cache_entry import ItemAnswer, encode_entry
from transformer.redis_address import RedisAddress, parse_redis_url
from transformer.redis_connections import RedisConnections
from transformer.redis_store import FAULTS, RedisStore, connection_maker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the program redis-server")

PASSWORD = "made up"  # noqa: S105 - so it is
ADDED_S = 0.015
"""What a broken Redis may add to most requests, once it is known to be broken."""


@dataclass(frozen=True)
class Server:
    """A running Redis."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def address(self) -> RedisAddress:
        """Its plain TCP port."""
        return RedisAddress(host="127.0.0.1", port=self.port, password=PASSWORD)

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(host="127.0.0.1", port=self.port, password=PASSWORD, socket_timeout=5)


@contextmanager
def _redis(folder: Path, *options: str) -> Iterator[Server]:
    port = held_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    command += ["--requirepass", PASSWORD, "--unixsocket", str(folder / "socket"), "--logfile", "log", *options]
    with subprocess.Popen(command) as process:
        server = Server(process, port, folder)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.kill()  # also one that was stopped by a signal


def _wait_until_ready(server: Server) -> None:
    deadline_s = time.monotonic() + 10
    with server.client() as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline_s, (server.folder / "log").read_text()
                time.sleep(0.01)
            else:
                return


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key and the certificate of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("redis")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(tls_folder: Path) -> Iterator[Server]:
    """A Redis that all tests of good days share."""
    with _redis(tls_folder) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A Redis for a test that does it harm."""
    with _redis(tmp_path) as server:
        yield server


@asynccontextmanager
async def _store(address: RedisAddress, **options: Any) -> AsyncIterator[RedisStore]:  # noqa: ANN401 - passed on
    store = RedisStore(address, **{"ttl_s": 60, "read_timeout_s": 1.0, "write_timeout_s": 1.0} | options)
    try:
        yield store
    finally:
        await store.close()


# --- good days ------------------------------------------------------------------------------------------------------


async def test_what_one_process_stores_another_reads(server: Server) -> None:
    """Entries keep their order, their bytes and their time to live; what is not there is None."""
    entries = {b"one": bytes(range(256)), b"two": b"", b"three": b"\r\n$-1\r\n"}
    async with _store(server.address, ttl_s=77) as one, _store(server.address) as other:
        await one.put_many(entries)
        assert await other.get_many([b"three", b"none", b"one", b"two"]) == [
            *_of(entries, b"three", b"none", b"one"),
            b"",
        ]
    with server.client() as client:
        assert 75 <= client.ttl("one") <= 77


def _of(entries: dict[bytes, bytes], *keys: bytes) -> list[bytes | None]:
    return [entries.get(key) for key in keys]


async def test_a_key_of_another_type_is_a_miss_and_is_replaced(server: Server) -> None:
    """What somebody else left under a key does no harm."""
    with server.client() as client:
        client.lpush("list", "x")
    async with _store(server.address) as store:
        assert await store.get_many([b"list"]) == [None]
        await store.put_many({b"list": b"1"})
        assert await store.get_many([b"list"]) == [b"1"]


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/2", "unix://{folder}/socket?db=2"])
async def test_each_way_of_connecting_works(server: Server, form: str) -> None:
    """TCP and sockets, with a password beside the URL, reach the database that was asked for."""
    address = parse_redis_url(form.format(port=server.port, folder=server.folder), PASSWORD)
    async with _store(address) as store:
        await store.put_many({b"way": form.encode()})
    with server.client() as client:
        client.select(2)
        assert client.get("way") == form.encode()


async def test_tls_is_spoken_and_the_certificate_checked(tls_folder: Path) -> None:
    """With the right authority the store works over TLS; without it, it refuses to talk at all."""
    tls_port = held_port()
    files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"]
    url = f"rediss://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{tls_port}"
    with _redis(tls_folder, "--tls-port", str(tls_port), *files, "--tls-ca-cert-file", "cert.pem"):
        async with _store(parse_redis_url(f"{url}?ssl_ca_certs={tls_folder}/cert.pem")) as store:
            await store.put_many({b"tls": b"1"})
            assert await store.get_many([b"tls"]) == [b"1"]
        async with _store(parse_redis_url(url)) as store:
            with pytest.raises(StoreFailed, match="CERTIFICATE_VERIFY_FAILED"):
                await store.get_many([b"tls"])


async def test_a_wrong_password_fails_without_being_shown(server: Server) -> None:
    """A refused login is a failure of the store; its message is fit for the log."""
    address = RedisAddress(host="127.0.0.1", port=server.port, password="s3cret")  # noqa: S106 - made up
    async with _store(address) as store:
        with pytest.raises(StoreFailed) as caught:
            await store.get_many([b"a"])
    assert "s3cret" not in str(caught.value)


async def test_many_requests_share_a_few_connections(server: Server) -> None:
    """More requests than connections wait for each other, and each gets its own answer."""
    async with _store(server.address, max_connections=3) as store:
        keys = [b"many %d" % number for number in range(200)]
        await asyncio.gather(*(store.put_many({key: key.upper()}) for key in keys))
        assert await asyncio.gather(*(store.get_many([key]) for key in keys)) == [[key.upper()] for key in keys]
        with server.client() as client:
            assert client.info("clients")["connected_clients"] <= 3 + 1


async def test_what_a_burst_opened_is_closed_again(server: Server) -> None:
    """Unused connections go after a while, but for one, and the next burst opens new ones."""
    lent = RedisConnections(connection_maker(server.address), limit=5, connect_timeout_s=1.0, faults=FAULTS, idle_s=0.2)

    def connected() -> int:
        with server.client() as client:
            return int(client.info("clients")["connected_clients"]) - 1  # the client asking is one itself

    async def becomes(count: int) -> bool:
        for _ in range(100):
            if connected() == count:
                return True
            await asyncio.sleep(0.05)
        return False

    others = connected()
    for _ in range(2):
        borrowed = await asyncio.gather(*(lent.borrow() for _ in range(5)))
        for connection in borrowed:
            lent.give_back(connection)
        assert connected() == others + 5
        assert await becomes(others + 1)
    await lent.close()
    assert await becomes(others)


async def test_a_connection_that_redis_closed_is_replaced(server: Server) -> None:
    """Idle connections that the server has closed cost no failure."""
    async with _store(server.address) as store:
        await store.put_many({b"a": b"1"})
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.05)
        assert await store.get_many([b"a"]) == [b"1"]


async def test_connecting_goes_on_when_the_request_has_lost_patience(server: Server) -> None:
    """A handshake that takes longer than a request may wait is done for the next one."""
    async with _store(server.address, read_timeout_s=1e-5) as hasty:
        with pytest.raises(StoreFailed):
            await hasty.get_many([b"a"])
        await asyncio.sleep(0.2)
        with server.client() as client:
            assert sum(entry["cmd"] != "client|list" for entry in client.client_list()) == 1


# --- replies that come too late -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_late_reply_answers_nobody_else(own_server: Server, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Requests that time out or are cancelled while Redis is slow never leave their reply to another one."""

    async def main() -> None:
        rng = random.Random(7)  # noqa: S311 - not for secrets
        outcomes: Counter[str] = Counter()
        keys = [b"late %d" % number for number in range(20)]
        async with _store(own_server.address, read_timeout_s=0.004, max_connections=4) as store:
            await store.put_many({key: key.upper() for key in keys})

            async def ask() -> None:
                asked = rng.sample(keys, rng.randint(1, 3))
                try:
                    async with asyncio.timeout(rng.choice((0.0005, 0.002, 5))):
                        assert await store.get_many(asked) == [key.upper() for key in asked]
                except (StoreFailed, TimeoutError) as error:
                    outcomes[type(error).__name__] += 1
                else:
                    outcomes["answered"] += 1

            for _ in range(40):
                own_server.process.send_signal(signal.SIGSTOP)
                slow = [asyncio.create_task(ask()) for _ in range(6)]
                await asyncio.sleep(rng.choice((0.0, 0.001, 0.003, 0.006)))
                own_server.process.send_signal(signal.SIGCONT)
                await asyncio.gather(*slow, *(ask() for _ in range(6)))
        assert outcomes["StoreFailed"] > 10, outcomes
        assert outcomes["TimeoutError"] > 10, outcomes
        assert outcomes["answered"] > 10, outcomes

    run(main())


def test_a_busy_process_does_not_blame_redis(server: Server) -> None:
    """While every round of the loop takes longer than the limit, Redis' replies are still hits."""

    async def main() -> None:
        async def hog() -> None:
            while True:
                time.sleep(0.015)  # noqa: ASYNC251 - blocking the loop is what is needed
                await asyncio.sleep(0)

        async with _store(server.address, read_timeout_s=0.01) as store:
            await store.put_many({b"busy": b"1"})
            busy = asyncio.create_task(hog())
            for _ in range(10):
                assert await store.get_many([b"busy"]) == [b"1"]
            busy.cancel()

    uvloop.run(main())


def test_many_requests_of_a_busy_process_do_not_blame_redis(server: Server) -> None:
    """More requests at a time than connections, read and written while every round takes longer than the limit."""

    async def main() -> None:
        async def hog() -> None:
            while True:
                time.sleep(0.015)  # noqa: ASYNC251 - blocking the loop is what is needed
                await asyncio.sleep(0)

        async def client() -> None:
            for _ in range(4):
                assert await store.get_many([b"busy"]) == [b"1"]
                await store.put_many({b"busy": b"1"})

        async with _store(server.address, read_timeout_s=0.01, max_connections=8) as store:
            await store.put_many({b"busy": b"1"})
            busy = asyncio.create_task(hog())
            await asyncio.gather(*(client() for _ in range(64)))
            busy.cancel()

    uvloop.run(main())


async def test_a_timeout_costs_no_connection(own_server: Server) -> None:
    """The only connection serves again after a reply that came too late, and with the right answer."""
    async with _store(own_server.address, read_timeout_s=0.02, max_connections=1) as store:
        await store.put_many({b"a": b"1", b"b": b"2"})
        own_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreFailed):
            await store.get_many([b"a"])
        own_server.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.02)
        for _ in range(3):
            assert await store.get_many([b"b"]) == [b"2"]


# --- bad days -------------------------------------------------------------------------------------------------------


def _answer(number: int) -> ItemAnswer:
    return ItemAnswer(45.0, float(number), 100.0, 50.0, 0.5, 0.5)


@dataclass
class Traffic:
    """Requests through a cache, each of one of a few captures, and what they cost beside the computation."""

    cache: AnswerCache
    events: Counter[str]
    fresh: int = 1_000_000

    async def ask(self, number: int) -> float:
        """One request, which must be answered rightly; returns its seconds."""

        async def compute(indices: Sequence[int]) -> list[ComputedAnswer]:
            return [ComputedAnswer(_answer(number)) for _ in indices]

        began_s = time.perf_counter()
        looked = await self.cache.answers([b"traffic %d" % number], compute)
        assert looked.answers == (_answer(number),)
        return time.perf_counter() - began_s

    async def rush(self, requests: int = 400, at_once: int = 4) -> list[float]:
        """Requests, some at the same time, all of captures that were never seen; their seconds in ascending order."""
        seconds: list[float] = []
        for _ in range(requests // at_once):
            self.fresh += at_once
            seconds += await asyncio.gather(*(self.ask(self.fresh - index) for index in range(at_once)))
            await asyncio.sleep(0)
        return sorted(seconds)


@asynccontextmanager
async def _traffic(address: RedisAddress) -> AsyncIterator[Traffic]:
    events: Counter[str] = Counter()
    store = RedisStore(address, ttl_s=60)
    cache = AnswerCache(store, observe=lambda event, items: events.update({event.value: items}))
    try:
        yield Traffic(cache, events)
    finally:
        await cache.close()


def _median(seconds: list[float]) -> float:
    # Tails belong to `bench/transformer_cache.py`: on a busy machine they tell of the neighbours.
    return seconds[len(seconds) // 2]


async def _broken_days(traffic: Traffic) -> None:
    """The first requests find out, those after that pay nothing."""
    for _ in range(5):
        await traffic.rush(requests=4)
    assert not traffic.cache.store_answers
    assert traffic.events["error"] >= 3
    assert _median(await traffic.rush()) < ADDED_S


async def test_redis_stopped(own_server: Server) -> None:
    """With connections refused every request is answered, and Redis is used again when it is back."""
    async with _traffic(own_server.address) as traffic:
        await traffic.rush(requests=20)
        own_server.process.kill()
        own_server.process.wait()
        await _broken_days(traffic)


async def test_redis_hung_and_back(own_server: Server) -> None:
    """A Redis that accepts and says nothing fails nobody; when it is back, there are hits again."""
    async with _traffic(own_server.address) as traffic:
        await traffic.rush(requests=20)
        await traffic.ask(1)
        await asyncio.sleep(0.05)
        own_server.process.send_signal(signal.SIGSTOP)
        await _broken_days(traffic)
        own_server.process.send_signal(signal.SIGCONT)
        deadline_s = time.monotonic() + 10
        while not traffic.cache.store_answers:
            assert time.monotonic() < deadline_s
            await traffic.ask(1)
            await asyncio.sleep(0.02)
        hits = traffic.events["hit"]
        await traffic.ask(1)
        await asyncio.sleep(0.05)
        await traffic.ask(1)
        assert traffic.events["hit"] > hits


async def test_redis_full(own_server: Server) -> None:
    """A Redis that refuses to store still answers what it holds; no request fails or waits."""
    async with _traffic(own_server.address) as traffic:
        await traffic.ask(1)
        await asyncio.sleep(0.05)
        with own_server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
        hits = traffic.events["hit"]
        assert _median(await traffic.rush()) < ADDED_S
        await traffic.ask(1)
        assert traffic.events["hit"] == hits + 1
        assert traffic.events["error"] >= 3
        assert traffic.cache.store_answers


async def test_a_refused_write_leaves_the_connection_usable(own_server: Server) -> None:
    """Of a pipeline that was refused every reply is read, so the connection can be used again."""
    async with _store(own_server.address, max_connections=1) as store:
        await store.put_many({b"a": b"1"})
        with own_server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
        with pytest.raises(StoreFailed, match="OutOfMemory"):
            await store.put_many({b"b": b"1", b"c": b"1"})
        assert await store.get_many([b"a"]) == [b"1"]


async def test_redis_with_bad_entries(server: Server) -> None:
    """Entries that are damaged or another key's are misses, are counted, and are replaced."""
    with server.client() as client:
        client.set("traffic 1", b"garbage")
        client.set("traffic 2", encode_entry(b"traffic 3", _answer(3)))
    async with _traffic(server.address) as traffic:
        for number in (1, 2):
            await traffic.ask(number)
        assert traffic.events == {"miss": 2, "error": 2}
        await asyncio.sleep(0.1)
        for number in (1, 2):
            await traffic.ask(number)
        assert traffic.events["hit"] == 2


NONSENSE = [
    b"\x00\xff\xfe nonsense\r\n" * 3,
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"*1\r\n$3\r\nabc\r\n" * 5,  # more replies than questions
    b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*1\r\n:7\r\n",
    b"$-5\r\n",
    b"*1\r\n$abc\r\n",
    b"+OK\r\n",
    b"*1\r\n" * 5000,
    b"-ERR no\r\n",
    b"*1\r\n-ERR no\r\n",
    b"$99999999999999999999\r\n",
    b"",
]


@asynccontextmanager
async def _impostor(reply: bytes) -> AsyncIterator[RedisAddress]:
    """A server that answers everything with the same bytes; with none it hangs up."""
    guests: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096) and reply:
                writer.write(reply)
        except ConnectionError:
            pass  # the other side has had enough
        finally:
            writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guests.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(welcome, "127.0.0.1", 0) as server:
        yield RedisAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        for guest in guests:
            guest.cancel()
        await asyncio.gather(*guests, return_exceptions=True)


@pytest.mark.parametrize("reply", NONSENSE, ids=lambda reply: repr(reply[:20]))
async def test_something_that_is_no_redis(reply: bytes) -> None:
    """Whatever answers on Redis' port, no request fails, and soon none waits or asks."""
    async with _impostor(reply) as address, _traffic(address) as traffic:
        for _ in range(5):
            await traffic.rush(requests=4)
        assert traffic.events["hit"] == 0
        assert traffic.events["error"] >= 3
        assert _median(await traffic.rush()) < ADDED_S


async def test_a_connection_that_spoke_nonsense_is_not_lent_again() -> None:
    """After a reply that cannot be to the question, the next question goes over another connection."""
    async with _impostor(b"*2\r\n$1\r\na\r\n$1\r\nb\r\n") as address, _store(address) as store:
        with pytest.raises(StoreFailed, match="as many values as keys"):
            await store.get_many([b"a"])
        assert await store.get_many([b"a", b"b"]) == [b"a", b"b"]
        (connection,) = store._connections._all  # noqa: SLF001 - whether it is the same socket shows nowhere else
        before = connection._writer  # noqa: SLF001 - redis says nowhere which socket it uses
        with pytest.raises(StoreFailed):
            await store.get_many([b"a"])
        await store.get_many([b"a", b"b"])
        assert connection._writer is not before  # noqa: SLF001 - as above


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([b"*", b"$", b":", b"+", b"-", b"_", b">", b"%", b"1", b"-1", b"9", b"\r\n", b"x"]))
    | st.lists(st.binary())
)
async def test_any_bytes_fail_the_store_and_nothing_else(parts: list[bytes]) -> None:
    """For any bytes there is an answer, which may be wrong and is then found out later, or `StoreFailed`."""
    async with _impostor(b"".join(parts)) as address, _store(address, read_timeout_s=0.005) as store:
        for _ in range(2):
            try:
                (entry,) = await store.get_many([b"a"])
            except StoreFailed:
                continue
            assert entry is None or isinstance(entry, bytes)
