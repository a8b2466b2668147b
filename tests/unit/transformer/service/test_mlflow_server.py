from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from transformer.errors import BadSettings
from transformer.mlflow_server import MlflowServer, RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATH = "/api/2.0/mlflow/model-versions/get"


class Registry:
    """Answers as a test wants it to.

    Attributes:
        body: Of every answer.
        status: Of every answer.
        headers: Of every answer.
        delay_s: Before every answer.
        requests: What it was asked.
    """

    def __init__(self) -> None:
        self.body = b'{"model_version": {"name": "m", "version": "7", "aliases": ["champion", "blue"]}}'
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        self.requests: list[web.Request] = []

    async def handle(self, request: web.Request) -> web.Response:
        """One answer."""
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        return web.Response(status=self.status, headers=self.headers, body=self.body)

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Its URL while it serves, without a `/` at the end."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        server = TestServer(app, scheme="https" if context else "http")
        await server.start_server(ssl=context)
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            await server.close()


@pytest.fixture
def registry() -> Registry:
    """A registry that knows version 7 of m."""
    return Registry()


@pytest.fixture
async def url(registry: Registry) -> AsyncIterator[str]:
    """Where it is."""
    async with registry.serving() as url:
        yield url


@pytest.mark.parametrize(
    ("environ", "userinfo", "header"),
    [
        ({}, "", None),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "", "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "", "Basic dTpw"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_TOKEN": "t"}, "x:p@", "Basic dTpw"),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_TOKEN": ""}, "u:p@", "Basic dTpw"),
        ({}, "u:%C3%A4%40@", "Basic dTrDpEA="),
    ],
)
async def test_the_question(
    registry: Registry, url: str, environ: dict[str, str], userinfo: str, header: str | None
) -> None:
    """One GET below the server's own path, with credentials by MLflow's own names or from the URL."""
    server = MlflowServer(f"{url.replace('//', f'//{userinfo}')}/base/", "radio model", environ)
    assert await server.aliases("7") == ("blue", "champion")
    (request,) = registry.requests
    assert (request.method, request.path) == ("GET", f"/base{PATH}")
    assert dict(request.query) == {"name": "radio model", "version": "7"}
    assert request.headers.get("Authorization") == header


@pytest.mark.parametrize("body", [b'{"model_version": {"version": "7"}}', b'{"model_version": {"aliases": []}}'])
async def test_a_version_without_aliases(registry: Registry, url: str, body: bytes) -> None:
    """MLflow leaves the member out; that is an answer, and no doubt about it."""
    registry.body = body
    assert await MlflowServer(url, "m", {}).aliases("7") == ()


async def test_a_long_answer(registry: Registry, url: str) -> None:
    """A version with many tags is read, in as many parts as it comes."""
    registry.body = b'{"model_version": {"tags": "%s", "aliases": ["a"]}}' % (b"x" * 1_000_000)
    assert await MlflowServer(url, "m", {}).aliases("7") == ("a",)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', "it knows no version 7 of m"),
        (500, b"s3cret", "it answers with status 500"),
        (403, b"<html>", "it answers with status 403"),
        (200, b"<html>", "its answer is not MLflow's"),
        (200, b"[1]", "its answer is not MLflow's"),
        (200, b"{}", "its answer is not MLflow's"),
        (200, b'{"model_version": 1}', "its answer is not MLflow's"),
        (200, b'{"model_version": {"aliases": "champion"}}', "its answer is not MLflow's"),
        (200, b'{"model_version": {"aliases": [1]}}', "its answer is not MLflow's"),
        (200, b" " * (4 * 1024 * 1024 + 1), "its answer has no end"),
    ],
)
async def test_answers_that_are_none(registry: Registry, url: str, status: int, body: bytes, words: str) -> None:
    """Each is told in words of this service's own, without those of the server, which nobody has vouched for."""
    registry.status, registry.body = status, body
    with pytest.raises(RegistryError) as caught:
        await MlflowServer(url, "m", {}).aliases("7")
    assert str(caught.value) == words


async def test_no_redirect_is_followed(registry: Registry, url: str) -> None:
    """Nobody but the server that was named gets the credentials, or is asked at all."""
    elsewhere = Registry()
    async with elsewhere.serving() as other:
        registry.status, registry.headers = 302, {"Location": f"{other}{PATH}"}
        with pytest.raises(RegistryError, match="status 302"):
            await MlflowServer(url, "m", {"MLFLOW_TRACKING_TOKEN": "t"}).aliases("7")
    assert (len(registry.requests), elsewhere.requests) == (1, [])


async def test_a_server_that_hangs(registry: Registry, url: str) -> None:
    """It is waited for as long as was said, and no longer."""
    registry.delay_s = 5.0
    async with asyncio.timeout(2.0):
        with pytest.raises(RegistryError, match=r"did not answer within 0\.1 s"):
            await MlflowServer(url, "m", {}, timeout_s=0.1).aliases("7")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:99999", "http://no-such-host.invalid"])
async def test_a_server_that_is_not_there(url: str) -> None:
    """Nobody listens, or there is no such place."""
    with pytest.raises(RegistryError, match=r"it cannot be asked: [A-Z]"):
        await MlflowServer(url, "m", {}).aliases("7")


async def test_a_token_that_no_header_can_carry(url: str) -> None:
    """A Secret that ends with a line's end gives no answer; the message does not hold it."""
    with pytest.raises(RegistryError, match="it cannot be asked") as caught:
        await MlflowServer(url, "m", {"MLFLOW_TRACKING_TOKEN": "s3cret\n"}).aliases("7")
    assert "s3cret" not in str(caught.value)


async def test_certificates(registry: Registry, tmp_path: Path) -> None:
    """They are checked, by the authorities that the operator names, unless they are not to be checked at all."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=mlflow", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with registry.serving(context) as url:
        with pytest.raises(RegistryError, match="it cannot be asked: ClientConnectorCertificateError"):
            await MlflowServer(url, "m", {}).aliases("7")
        for name, text in (("SERVER_CERT_PATH", str(certificate)), ("INSECURE_TLS", "true")):
            assert await MlflowServer(url, "m", {f"MLFLOW_TRACKING_{name}": text}).aliases("7") == ("blue", "champion")
    with pytest.raises(BadSettings, match=r"MLFLOW_TRACKING_SERVER_CERT_PATH .* cannot be read"):
        MlflowServer("https://h", "m", {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(tmp_path / "none")})
