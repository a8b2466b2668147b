from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.docs.conftest import Demo

PREDICT = "/api/v1/inference/predict"
SECRETS = ("redis-s3cret", "url-s3cret", "mlflow-s3cret", "token-s3cret", "aws-s3cret", "session-s3cret")


def _post(port: int, path: str, body: Any, **headers: str) -> tuple[int, bytes]:  # noqa: ANN401 - bytes or their source
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def example(demo: Demo) -> bytes:
    """The request that the demonstration leaves."""
    return (demo.folder / "build/demo/request.json").read_bytes()


@pytest.fixture(scope="session")
def model_dir(root: Path) -> str:
    """The reference model's folder."""
    return str(prepare(root / "build" / "reference")["reference"])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=predictor"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return str(made[0]), str(made[1])


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_the_sdks_own_paths_have_the_limits_too(demo: Demo, component: str) -> None:
    """V1 is answered by the SDK, which would read a body of any size: it is refused unread, or after 16 MiB."""
    port = demo.predictor_port if component == "predictor" else demo.http_port
    path = "/v1/models/localization:predict"
    before = _resident_bytes(port)
    assert _post(port, path, b"", **{"Content-Length": str(10**9)})[0] == 413
    status, body = _post(port, path, (b"x" * 65536 for _ in range(320)))
    assert (status, b"16777216" in body) == (413, True)
    assert _resident_bytes(port) - before < 64 * 1024 * 1024


def _resident_bytes(port: int) -> int:
    (listener,) = {
        one.pid for one in psutil.net_connections("tcp") if one.laddr.port == port and one.status == "LISTEN"
    }
    return int(psutil.Process(listener).memory_info().rss)


def test_many_headers(demo: Demo, example: bytes) -> None:
    """More than a hundred headers are refused, and no more than that are not."""
    assert _post(demo.http_port, PREDICT, example, **{f"x-{index}": "a" for index in range(94)})[0] == 200
    assert _post(demo.http_port, PREDICT, example, **{f"x-{index}": "a" for index in range(120)})[0] == 431


def test_a_large_grpc_message(start: Callable[..., Any], model_dir: str) -> None:
    """More than 8 MiB is refused by its length, before anything reads it as a message."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start("predictor", "--model_dir", model_dir, "--enable_grpc", "true", "--grpc_port", str(port))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            infer(bytes(9 * 1024 * 1024), timeout=10)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_nothing_runs_what_it_reads(root: Path) -> None:
    """No package of the service unpickles, evaluates or loads code from data."""
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|cPickle|dill|joblib|marshal|shelve|torch)\b"
        r"|allow_pickle=True|\beval\(|\bexec\(|yaml\.(unsafe_)?load\(|register_custom_ops",
        re.MULTILINE,
    )
    found = []
    for package in ("oip", "predictor", "transformer", "rollout", "reference"):
        for path in (root / package).rglob("*.py"):
            found += [f"{path.relative_to(root)}: {match[0]}" for match in forbidden.finditer(path.read_text())]
    assert not found


def test_no_secret_is_logged(start: Callable[..., Any], model_dir: str, example: bytes) -> None:
    """Passwords, keys and samples are in no line, also where what they are for fails."""
    told = {"MLFLOW_TRACKING_PASSWORD": "mlflow-s3cret", "MLFLOW_TRACKING_TOKEN": "token-s3cret"}
    told |= {"AWS_SECRET_ACCESS_KEY": "aws-s3cret", "AWS_SESSION_TOKEN": "session-s3cret"}
    predictor_log, predictor = start("predictor", "--model_dir", model_dir, "--log_level", "DEBUG", **told)
    told = {"REDIS_URL": "redis://me:url-s3cret@127.0.0.1:1/0", "REDIS_PASSWORD": "redis-s3cret"}
    transformer_log, transformer = start("transformer", "--predictor_host", f"127.0.0.1:{predictor}", **told)
    sample = str(json.loads(example)["iq_data"][0][0][0])
    assert _post(transformer, PREDICT, example)[0] == 200
    assert _post(transformer, PREDICT, example.replace(sample.encode(), b"1e39"))[0] >= 400
    assert _post(transformer, PREDICT, example[:-1])[0] == 400
    logged = predictor_log.read_text() + transformer_log.read_text()
    assert not [word for word in (*SECRETS, sample, "1e39", "1e+39") if word in logged]


@pytest.mark.parametrize("uri", ["models:/localization/1", "s3://bucket/model.onnx"])
def test_no_secret_is_in_the_last_words(root: Path, uri: str) -> None:
    """A predictor that cannot reach its registry says so without its credentials."""
    environ = {
        "MLFLOW_TRACKING_URI": "http://me:url-s3cret@127.0.0.1:1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "aws-s3cret",
        "AWS_SESSION_TOKEN": "session-s3cret",
    }
    command = [sys.executable, "-m", "predictor", "--model_uri", uri, "--log_level", "DEBUG"]
    ended = subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode != 0
    assert ended.stderr.strip()
    assert not [word for word in SECRETS if word in ended.stdout + ended.stderr], ended.stderr


def test_tls_on_the_hop(
    start: Callable[..., Any], model_dir: str, certificate: tuple[str, str], example: bytes
) -> None:
    """The predictor can speak TLS itself; the transformer believes the authorities that it is given and no others."""
    certfile, keyfile = certificate
    _, predictor = start("predictor", "--model_dir", model_dir, "--ssl_certfile", certfile, "--ssl_keyfile", keyfile)
    context = ssl.create_default_context(cafile=certfile)
    connection = http.client.HTTPSConnection("127.0.0.1", predictor, timeout=10, context=context)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
    connection.close()
    hop = ("transformer", "--predictor_host", f"127.0.0.1:{predictor}", "--predictor_use_ssl", "true")
    _, trusting = start(*hop, SSL_CERT_FILE=certfile)
    assert _post(trusting, PREDICT, example)[0] == 200
    _, doubting = start(*hop)
    assert _post(doubting, PREDICT, example)[0] == 503


def test_every_test_that_the_threat_model_names_is_there(root: Path) -> None:
    """The page names tests as `path::name`, and modules by their path."""
    text = (root / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, name in named:
        assert (root / path).is_file(), path
        assert not name or re.search(rf"def {name}\b", (root / path).read_text()), f"{path}::{name}"
    for path in re.findall(r"`((?:oip|predictor|transformer|charts)/[\w/.]+\.\w+)`", text):
        assert (root / path).is_file(), path
