"""The program that KServe starts before the predictor, against a real MinIO and over bad connections."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import onnx
import pytest

from predictor import storage_initializer, store
from predictor.errors import SourceError
from predictor.s3_reader import S3Reader
from predictor.s3_source import S3Access, S3Store
from predictor.storage_initializer import initialize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Running
    from types_boto3_s3 import S3Client

BUCKET = "heimdall-models"


@pytest.fixture
def environ(minio: Running, s3: S3Client) -> Mapping[str, str]:  # noqa: ARG001 - the bucket has to be there
    """How MinIO is reached."""
    return minio.environ


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_with_what_belongs_to_it(
    environ: Mapping[str, str], s3: S3Client, tmp_path: Path, make_model: Callable[[int], onnx.ModelProto]
) -> None:
    """The program brings the model, its contract and its external data, and nothing else."""
    folder = tmp_path / "here"
    folder.mkdir()
    onnx.save(make_model(1), folder / "model.onnx", save_as_external_data=True, location="big data", size_threshold=0)
    (folder / "contract.json").write_text('{"schema":"a/1"}')
    expected = _files(folder)
    for name, content in (expected | {"other.pkl": b"never", "model.onnx.bak": b"never"}).items():
        s3.put_object(Bucket=BUCKET, Key=f"init/a b+ü/{name}", Body=content)
    target = tmp_path / "there"
    done = subprocess.run(
        [sys.executable, "-m", "predictor.storage_initializer", f"s3://{BUCKET}/init/a b+ü/model.onnx", str(target)],
        env=os.environ | dict(environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _files(target) == expected


def test_a_folder_comes_whole(environ: Mapping[str, str], s3: S3Client, tmp_path: Path) -> None:
    """Versions, and more objects than one listing tells."""
    expected = {f"{version}/model.onnx": str(version).encode() for version in range(1, 1003)}
    for name, content in expected.items():
        s3.put_object(Bucket=BUCKET, Key=f"many/{name}", Body=content)
    names = S3Reader(S3Access.from_environ(environ), BUCKET, "many").names()
    assert sorted(names) == sorted(expected)
    assert sorted(names) == sorted(S3Store(s3, BUCKET, "many").names())
    for version in (1, 2):
        s3.put_object(Bucket=BUCKET, Key=f"few/{version}/model.onnx", Body=str(version).encode())
    initialize([f"s3://{BUCKET}/few", str(tmp_path)], environ)
    assert _files(tmp_path) == {"1/model.onnx": b"1", "2/model.onnx": b"2"}


@pytest.mark.parametrize(
    ("uri", "changed", "words"),
    [
        (f"s3://{BUCKET}/none/model.onnx", {}, f"s3://{BUCKET}/none/model.onnx does not exist"),
        (f"s3://{BUCKET}/none", {}, f"s3://{BUCKET}/none does not exist"),
        ("s3://no-such-bucket/model.onnx", {}, r"there is no such bucket \(NoSuchBucket\)"),
        (f"s3://{BUCKET}/m.onnx", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret of the access key is wrong"),
        (f"s3://{BUCKET}/m.onnx", {"AWS_ACCESS_KEY_ID": "nobody"}, "access key is not known"),
        (f"s3://{BUCKET}/m.onnx", {"AWS_ACCESS_KEY_ID": ""}, "no credentials"),
        (f"s3://{BUCKET}/m.onnx", {"awsAnonymousCredential": "true"}, "may not read this"),
        ("gs://bucket/m.onnx", {}, "is not s3://BUCKET/FOLDER: choose KServe's image"),
    ],
)
def test_the_reason_is_said(
    environ: Mapping[str, str], tmp_path: Path, uri: str, changed: dict[str, str], words: str
) -> None:
    """What an operator reads in `kubectl describe` names the object and what is wrong with it or with the key."""
    with pytest.raises(SourceError, match=words):
        initialize([uri, str(tmp_path)], dict(environ) | changed)


def test_a_public_bucket_needs_no_key(
    environ: Mapping[str, str], s3: S3Client, tmp_path: Path, make_model: Callable[[int], onnx.ModelProto]
) -> None:
    """Anonymous requests are not signed."""
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject",'
        '"s3:ListBucket"],"Resource":["arn:aws:s3:::public","arn:aws:s3:::public/*"]}]}'
    )
    s3.create_bucket(Bucket="public")
    s3.put_bucket_policy(Bucket="public", Policy=policy)
    model = make_model(2).SerializeToString()
    s3.put_object(Bucket="public", Key="model.onnx", Body=model)
    anonymous = dict(environ) | {"awsAnonymousCredential": "true"}
    initialize(["s3://public/model.onnx", str(tmp_path)], anonymous)
    assert _files(tmp_path) == {"model.onnx": model}


class _Scripted(BaseHTTPRequestHandler):
    """Answers with what `answers` says, one after the other: status, headers, body; a None breaks the connection."""

    answers: list[tuple[int, dict[str, str], bytes] | None]
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        answer = self.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes] | None) -> Iterator[tuple[S3Access, list[str]]]:
    """Access to a service that gives these answers, and the paths that it was asked for."""
    handler = type("Handler", (_Scripted,), {"answers": list(answers), "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        try:
            yield S3Access.from_environ(environ | keys), handler.seen
        finally:
            server.shutdown()
            thread.join()


LISTING = (
    b"<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Contents><Key>m.onnx</Key><Size>4</Size>"
    b'<ETag>"e"</ETag></Contents></ListBucketResult>'
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts."""
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_what_may_go_better_is_tried_again() -> None:
    """A service that breaks off, and one that is busy, are asked again."""
    busy = (503, {}, b"<Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>")
    with scripted(None, busy, (200, {}, LISTING)) as (access, seen):
        found = S3Reader(access, "b", "").find("m.onnx")
    assert found == store.RemoteFile("m.onnx", 4, '"e"')
    assert len(seen) == 3
    with (
        scripted(busy, busy, busy) as (access, _),
        pytest.raises(store.Interrupted, match=r"reduce your rate \(SlowDown\)"),
    ):
        S3Reader(access, "b", "").find("m.onnx")


@pytest.mark.usefixtures("impatient")
def test_a_service_that_starts_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More failures than the reader's own attempts do not end the program, until its patience does."""
    monkeypatch.setattr(storage_initializer, "_PAUSE_S", 0.0)
    busy = (503, {}, b"<Error><Code>SlowDown</Code></Error>")
    listed, model = (200, {}, LISTING), (200, {"Content-Length": "4"}, b"onnx")
    nothing = (200, {}, b"<ListBucketResult/>")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with scripted(*[busy] * 7, listed, model, nothing) as (access, seen):
        initialize(["s3://b/m.onnx", str(tmp_path)], keys | {"AWS_ENDPOINT_URL": str(access.endpoint_url)})
    assert _files(tmp_path) == {"m.onnx": b"onnx"}
    assert len(seen) == 10
    monkeypatch.setattr(storage_initializer, "PATIENCE_S", 0.0)
    with scripted(*[busy] * 3) as (access, _), pytest.raises(store.Interrupted):
        initialize(["s3://b/m.onnx", str(tmp_path)], keys | {"AWS_ENDPOINT_URL": str(access.endpoint_url)})


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An S3 service with TLS that holds nothing: its address and the authority of its certificate."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True, timeout=30)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (_Scripted,), {"answers": [(200, {}, b"<ListBucketResult/>")] * 2, "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}", certificate
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_certificates_are_checked(secure: tuple[str, Path]) -> None:
    """By the machine's authorities, by a bundle, or not at all where the operator says so."""
    url, bundle = secure
    keys = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(store.Interrupted, match="CERTIFICATE_VERIFY_FAILED"):
        S3Reader(S3Access.from_environ(keys), "b", "").names()
    for more in ({"AWS_CA_BUNDLE": str(bundle)}, {"S3_VERIFY_SSL": "0"}):
        assert S3Reader(S3Access.from_environ(keys | more), "b", "").names() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {}, b"<html>not S3</html"), "answers 404 Not Found"),
        ((200, {}, b"{}"), "the answer is not S3's"),
    ],
    ids=["another service", "JSON"],
)
def test_another_service_is_told_apart(answer: tuple[int, dict[str, str], bytes], words: str) -> None:
    """Whatever else answers at the endpoint is named as such."""
    with scripted(answer) as (access, _), pytest.raises(SourceError, match=words):
        S3Reader(access, "b", "").find("m.onnx")


@pytest.mark.usefixtures("impatient")
def test_a_service_that_is_not_there() -> None:
    """Nobody listens: the message says where."""
    access = S3Access.from_environ(
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    )
    with pytest.raises(store.Interrupted, match=r"127\.0\.0\.1:9: .*refused"):
        S3Reader(access, "b", "").names()


@pytest.mark.parametrize(
    ("environ", "bucket", "host", "root"),
    [
        ({}, "b", "b.s3.us-east-1.amazonaws.com", "/"),
        ({"AWS_REGION": "eu-south-1"}, "dot.ted", "s3.eu-south-1.amazonaws.com", "/dot.ted"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, "b", "minio:9000", "/b"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USER_VIRTUAL_BUCKET": "1"}, "b", "b.minio:9000", "/"),
    ],
)
def test_where_a_bucket_is(environ: dict[str, str], bucket: str, host: str, root: str) -> None:
    """In the host's name as Amazon has it, in the path for other services."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    reader = S3Reader(S3Access.from_environ(environ | keys), bucket, "")
    assert (reader._host, reader._root) == (host, root)  # noqa: SLF001 - asking would need Amazon
