from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from predictor import store
from predictor.errors import SourceError
from predictor.mlflow_server import MlflowAccess, asked

if TYPE_CHECKING:
    from pathlib import Path

HOST = "https://mlflow.example"


@pytest.mark.parametrize("uri", ["", "sqlite:///mlruns.db", "file:///mlruns", "/mlruns", "databricks", "http://"])
def test_only_servers_are_registries(uri: str) -> None:
    """A tracking URI that needs MLflow itself to be read is refused, as is none."""
    with pytest.raises(SourceError, match="models:/ needs MLFLOW_TRACKING_URI"):
        MlflowAccess.from_environ({"MLFLOW_TRACKING_URI": uri})


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
        (
            {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p", "MLFLOW_TRACKING_TOKEN": "t"},
            "Basic dTpw",
        ),
        ({"MLFLOW_TRACKING_URI": "http://u:p@mlflow.example/base/"}, "Basic dTpw"),
        ({"MLFLOW_TRACKING_URI": "http://a%40b:p%40ss%2F@mlflow.example/base"}, "Basic YUBiOnBAc3Mv"),  # a@b:p@ss/
    ],
)
def test_credentials(environ: dict[str, str], header: str | None) -> None:
    """MLflow's own names give basic or bearer authentication; what may be logged does not hold them."""
    access = MlflowAccess.from_environ({"MLFLOW_TRACKING_URI": "http://mlflow.example/base", **environ})
    client = access.client()
    request = client.build_request("GET", "/api")
    sent = next(client.auth.sync_auth_flow(request)) if client.auth else request
    assert sent.headers.get("Authorization") == header
    assert str(sent.url) == "http://mlflow.example/base/api"
    assert "'p'" not in repr(access)
    assert "'t'" not in repr(access)


def test_certificates(tmp_path: Path) -> None:
    """Certificates are checked unless the operator says otherwise; authorities that cannot be read are told."""
    environ = {"MLFLOW_TRACKING_URI": HOST}
    assert MlflowAccess.from_environ(environ).verify is True
    assert MlflowAccess.from_environ({**environ, "MLFLOW_TRACKING_INSECURE_TLS": "true"}).verify is False
    bundle = tmp_path / "ca.crt"
    named = MlflowAccess.from_environ({**environ, "MLFLOW_TRACKING_SERVER_CERT_PATH": str(bundle)})
    with pytest.raises(SourceError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
        named.client()
    roots = ssl.create_default_context().get_ca_certs(binary_form=True)
    if roots:
        bundle.write_text(ssl.DER_cert_to_PEM_cert(roots[0]))
        assert named.client() is not None


def _client(*answers: httpx.Response | Exception) -> tuple[httpx.Client, list[httpx.Request]]:
    """A client that gets these answers, one after another, and what it asked."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        now = answers[len(requests) - 1]
        if isinstance(now, Exception):
            raise now
        return now

    return httpx.Client(base_url=HOST, transport=httpx.MockTransport(answer)), requests


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout or an overload the question is put again, three times in all."""
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.0)
    client, requests = _client(
        httpx.ReadTimeout(""), httpx.Response(503, text="later"), httpx.Response(200, json={"a": 1})
    )
    assert asked(client, "/x", {"name": "ä b"}) == {"a": 1}
    assert [str(one.url) for one in requests] == [f"{HOST}/x?name=%C3%A4+b"] * 3


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([httpx.Response(404, json={"message": "no such model"})], "mlflow.example answers 404: no such model"),
        ([httpx.Response(403, text="<html>")], "answers 403: Forbidden"),
        ([httpx.Response(403, json=[])], "answers 403: Forbidden"),
        ([httpx.Response(302, headers={"Location": "http://169.254.169.254/"})], "answers 302"),
        ([httpx.Response(200, text="<html>")], "mlflow.example: "),
        ([httpx.ReadTimeout("")] * 3, "mlflow.example: ReadTimeout"),
        ([httpx.Response(500, json={"message": "its store is away"})] * 3, "answers 500: its store is away"),
    ],
)
def test_answers_that_are_none(
    monkeypatch: pytest.MonkeyPatch, answers: list[httpx.Response | Exception], words: str
) -> None:
    """An error is told in the server's words, a redirect is not followed, and what is no JSON is refused."""
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.0)
    client, requests = _client(*answers)
    with pytest.raises(SourceError, match=words):
        asked(client, "/x", {})
    assert len(requests) == len(answers)


def test_json_that_is_no_object_is_empty() -> None:
    """A list in place of an object holds none of the members that are looked for."""
    assert asked(_client(httpx.Response(200, json=[1]))[0], "/x", {}) == {}
