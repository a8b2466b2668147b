from __future__ import annotations

import asyncio
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from transformer.http_answer import BadAnswer
from transformer.http_client import HttpClient, Origin, Unconnected, origin_of
from transformer.http_exchange import Disconnected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from conftest import Script

ASK = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",)
DIE = b""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds, ten seconds at most."""
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process's or the kernel's time
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://predictor", Origin("predictor", 80, secure=False, authority="predictor")),
        ("http://10.0.0.1:80", Origin("10.0.0.1", 80, secure=False, authority="10.0.0.1")),
        ("http://p:8081/", Origin("p", 8081, secure=False, authority="p:8081")),
        ("https://p:443", Origin("p", 443, secure=True, authority="p")),
        ("https://[2001:db8::1]:80", Origin("2001:db8::1", 80, secure=True, authority="[2001:db8::1]:80")),
    ],
)
def test_origins(url: str, origin: Origin) -> None:
    """The header Host names the port where it is not the scheme's own, and puts IPv6 in brackets (RFC 9110, 7.2)."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["predictor:80", "ftp://p", "http://", "http://p:99999"])
def test_bad_origins(url: str) -> None:
    """What is no URL of HTTP is said to be none."""
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        origin_of(url)


async def test_one_connection_serves_many(client: HttpClient, script: Script) -> None:
    """Requests one after the other share a connection; after `Connection: close` the next one opens another."""
    async with script(OK, LAST, OK) as server:
        for _ in range(3):
            assert (await client.exchange(server.origin, ASK, 10.0)).body == b"ok"
        assert [len(requests) for requests in server.requests] == [2, 1]


async def test_parts_are_one_request(client: HttpClient, script: Script) -> None:
    """Head and body leave in order, however many parts they come in."""
    async with script() as server:
        await client.exchange(server.origin, (b"GET / ", b"HTTP/1.1\r\n", b"\r\n"), 10.0)
        assert server.requests == [[b"GET / HTTP/1.1\r\n\r\n"]]


async def test_the_latest_idle_connections_are_kept(script: Script) -> None:
    """Of a burst's connections no more than allowed stay, and those unused for too long go as well."""
    client = HttpClient(connect_timeout_s=10.0, max_idle=2, idle_s=1.0)
    async with script() as server:
        await asyncio.gather(*(client.exchange(server.origin, ASK, 10.0) for _ in range(5)))
        await until(lambda: len(server.ended) == 3)
        await client.exchange(server.origin, ASK, 10.0)
        assert len(server.requests) == 5
        await until(lambda: len(server.ended) == 5)
        assert (await client.exchange(server.origin, ASK, 10.0)).body == b"ok"
        await client.close()
        await until(lambda: len(server.ended) == 6)


async def test_a_connection_that_died_while_idle_is_not_used(client: HttpClient, script: Script) -> None:
    """What has arrived on an idle connection, its end or words that nobody asked for, costs no request."""
    async with script() as server:
        for words in (None, b"HTTP/1.1 408 Request Timeout\r\n\r\n"):
            await client.exchange(server.origin, ASK, 10.0)
            writer = server.writers[-1]
            if words:
                writer.write(words)
            else:
                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            # It is in the kernel by now, and the loop has no chance to see it before the next request.
            assert (await client.exchange(server.origin, ASK, 10.0)).body == b"ok"
        assert [len(requests) for requests in server.requests] == [1, 2, 1]
        server.writers[-1].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await until(lambda: 2 in server.ended)  # seen in the loop, it is closed at once


async def test_how_a_connection_died(client: HttpClient, script: Script) -> None:
    """Told apart are a death before and after the first byte, and of a connection that had served before."""
    async with script(DIE, OK, DIE, b"HTTP/1.1 200 OK\r\nContent-Le") as server:
        with pytest.raises(Disconnected) as fresh:
            await client.exchange(server.origin, ASK, 10.0)
        await client.exchange(server.origin, ASK, 10.0)
        with pytest.raises(Disconnected) as stale:
            await client.exchange(server.origin, ASK, 10.0)
        task = asyncio.create_task(client.exchange(server.origin, ASK, 10.0))
        await until(lambda: len(server.requests) == 3 and bool(server.requests[2]))
        server.writers[-1].close()
        with pytest.raises(Disconnected) as within:
            await task
    died = [one.value for one in (fresh, stale, within)]
    assert [(one.answer_begun, one.reused) for one in died] == [(False, False), (False, True), (True, False)]


async def test_no_answer(client: HttpClient, script: Script) -> None:
    """What is not HTTP closes the connection, and says so."""
    async with script(b"220 mail.example ESMTP\r\n") as server:
        with pytest.raises(BadAnswer):
            await client.exchange(server.origin, ASK, 10.0)
        await until(lambda: server.ended == [0])


async def test_time_is_limited(client: HttpClient, script: Script) -> None:
    """An answer that does not come in time is not waited for, and its connection is closed, not used again."""
    async with script(b"HTTP/1.1 200 OK\r\n") as server:
        with pytest.raises(TimeoutError):
            await client.exchange(server.origin, ASK, 0.05)
        await until(lambda: server.ended == [0])


async def test_a_request_that_is_given_up(client: HttpClient, script: Script) -> None:
    """Cancelling closes the connection, so that the server knows."""
    async with script(b"HTTP/1.1 200 OK\r\n") as server:
        task = asyncio.create_task(client.exchange(server.origin, ASK, 10.0))
        await until(lambda: bool(server.requests and server.requests[0]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.ended == [0])


async def test_closing_fails_what_is_under_way(client: HttpClient, script: Script) -> None:
    """At the end nobody is left waiting."""
    async with script(b"HTTP/1.1 200 OK\r\n") as server:
        task = asyncio.create_task(client.exchange(server.origin, ASK, 10.0))
        await until(lambda: bool(server.requests and server.requests[0]))
        await client.close()
        with pytest.raises(Disconnected):
            await task


async def test_an_answer_before_the_request_has_left(client: HttpClient, script: Script) -> None:
    """A server that answers without reading the body will not read the rest of it as a request: not used again."""
    async with script(OK, OK) as server:
        answer = await client.exchange(server.origin, (*ASK, bytes(64 * 1024 * 1024)), 30.0)
        assert answer.body == b"ok"
        assert (await client.exchange(server.origin, ASK, 10.0)).body == b"ok"
        assert len(server.requests) == 2


async def test_nobody_takes_a_connection(client: HttpClient, swallowing: str) -> None:
    """Refused, unknown, and swallowed by the network are one thing; but the exchange's own time is another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{free.getsockname()[1]}"
        for url in (refusing, "http://no-such-name.invalid"):
            with pytest.raises(Unconnected):
                await client.exchange(origin_of(url), ASK, 2.0)
    with pytest.raises(Unconnected, match=r"within 0\.5 s"):
        await client.exchange(origin_of(swallowing), ASK, 2.0)
    with pytest.raises(TimeoutError):
        await client.exchange(origin_of(swallowing), ASK, 0.1)


async def test_every_address_is_tried(
    client: HttpClient, script: Script, swallowing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that swallows packets takes its part of the time, and the next one answers."""
    port = origin_of(swallowing).port
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.2", port) as server, script():

        async def found(*_: object, **__: object) -> list[Any]:
            return [(0, 0, 0, "", ("127.0.0.1", port)), (0, 0, 0, "", ("127.0.0.2", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        with pytest.raises(Disconnected):  # the second address has taken the connection
            await client.exchange(Origin("two", port, secure=False, authority="two"), ASK, 2.0)
        assert server.is_serving()


async def test_tls(script: Script, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the server's certificate is checked against the system's, by the name that is called."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with script(tls=context) as server:
        checking = HttpClient(connect_timeout_s=10.0)
        with pytest.raises(Unconnected, match="certificate"):
            await checking.exchange(server.origin, ASK, 20.0)
        await checking.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = HttpClient(connect_timeout_s=10.0)
        for _ in range(2):
            assert (await trusting.exchange(server.origin, ASK, 20.0)).body == b"ok"
        await trusting.close()
        other = HttpClient(connect_timeout_s=10.0)
        with pytest.raises(Unconnected, match="certificate"):
            await other.exchange(origin_of(f"https://127.0.0.1:{server.origin.port}"), ASK, 20.0)
        await other.close()
        assert max(len(requests) for requests in server.requests) == 2


async def test_against_uvicorn() -> None:
    """Bodies of any size, many at once, there and back through a real server, chunked and with a length."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - of ASGI
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [] if scope["path"] == "/chunked" else [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, max(1, len(body)), 50_000):
            await send({"type": "http.response.body", "body": body[start : start + 50_000], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(echo, lifespan="off", log_config=None))
        running = asyncio.create_task(server.serve([listener]))
        origin, client = origin_of(f"http://127.0.0.1:{listener.getsockname()[1]}"), HttpClient(connect_timeout_s=10.0)

        async def ask(draw: random.Random) -> bool:
            body = draw.randbytes(draw.choice([0, 1, 999, 65_536, 300_000]))
            path = draw.choice(["/", "/chunked"])
            head = f"POST {path} HTTP/1.1\r\nHost: {origin.authority}\r\nContent-Length: {len(body)}\r\n\r\n"
            return (await client.exchange(origin, (head.encode(), body), 10.0)).body == body

        for seed in range(3):
            many: list[Awaitable[bool]] = [ask(random.Random(seed * 100 + number)) for number in range(40)]  # noqa: S311 - a seed that repeats
            assert all(await asyncio.gather(*many))
        await client.close()
        server.should_exit = True
        await running
