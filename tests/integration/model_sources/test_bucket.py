"""Models fetched from a real MinIO, over connections that are sometimes bad."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from predictor import artifact
from predictor.errors import ArtifactError, SourceError
from predictor.s3_source import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Fetcher, Running
    from types_boto3_s3 import S3Client

BUCKET = "heimdall-models"


@pytest.fixture
def save(make_model: Callable[[int], onnx.ModelProto]) -> Callable[..., Path]:
    """Writes a model into a folder, and returns the folder."""

    def save(folder: Path, seed: int = 1, **options: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(make_model(seed), folder / "model.onnx", **options)
        return folder

    return save


def _put(s3: S3Client, folder: Path, prefix: str) -> None:
    for path in filter(lambda one: one.is_file(), folder.rglob("*")):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}{path.relative_to(folder).as_posix()}", Body=path.read_bytes())


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_versions(fetch: Fetcher, s3: S3Client, tmp_path: Path, save: Callable[..., Path]) -> None:
    """The version asked for, else the highest, with its contract, and nothing that is not part of a model."""
    save(tmp_path / "9", 9)
    ten = save(tmp_path / "10", 10)
    (ten / "contract.json").write_text('{"schema":"a/1"}')
    (ten / "python_model.pkl").write_bytes(b"never")
    _put(s3, tmp_path, "versions/")
    _put(s3, ten, "versions-of-another/11/")
    place = fetch(f"s3://{BUCKET}/versions")
    assert place.version == "10"
    assert _files(place.path) == ["SHA256SUMS", "contract.json", "model.onnx"]
    expected = artifact.find(tmp_path / "10").model_digest
    found = artifact.find(place.path, place.version, expected)
    assert (found.version, found.contract_json) == ("10", '{"schema":"a/1"}')
    assert fetch(f"s3://{BUCKET}/versions/", model_version="9").version == "9"


def test_what_is_published_checks_with_sha256sum(
    fetch: Fetcher, s3: S3Client, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """A foreign program agrees with the sums; the same files fetched twice are kept once, damaged ones replaced."""
    _put(s3, save(tmp_path / "model"), "sums/")
    sha256sum = shutil.which("sha256sum") or pytest.skip("there is no sha256sum")
    for _ in range(3):
        place = fetch(f"s3://{BUCKET}/sums/model.onnx")
        subprocess.run([sha256sum, "--check", "--strict", "SHA256SUMS"], cwd=place.path, check=True, timeout=10)
        assert [one for one in fetch.kept() if not one.startswith(".")] == [place.path.name]
        (place.path / "model.onnx").write_bytes(b"damaged")


@pytest.mark.parametrize("location", ["weights.bin", "data/w.bin"])
def test_external_data(fetch: Fetcher, s3: S3Client, tmp_path: Path, save: Callable[..., Path], location: str) -> None:
    """The files that a model names are fetched with it, for a folder as for the URI of the model itself."""
    (tmp_path / "m" / "data").mkdir(parents=True)
    folder = save(tmp_path / "m", save_as_external_data=True, location=location, size_threshold=0)
    _put(s3, folder, f"external/{location}/")
    for uri in (f"s3://{BUCKET}/external/{location}", f"s3://{BUCKET}/external/{location}/model.onnx"):
        place = fetch(uri)
        assert _files(place.path) == sorted(["SHA256SUMS", "model.onnx", location])
        assert artifact.find(place.path).model_digest == artifact.find(folder).model_digest


def test_external_data_outside_the_folder_is_never_fetched(
    fetch: Fetcher, s3: S3Client, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """A model that names `../secret` gets nothing from there, and cannot be served."""
    folder = save(tmp_path / "m", save_as_external_data=True, location="secret", size_threshold=0)
    content = (folder / "model.onnx").read_bytes()
    assert content.count(b"\x12\x06secret") == 1
    s3.put_object(Bucket=BUCKET, Key="outside/deep/model.onnx", Body=content.replace(b"\x06secret", b"\x06../abc"))
    s3.put_object(Bucket=BUCKET, Key="outside/abc", Body=(folder / "secret").read_bytes())
    place = fetch(f"s3://{BUCKET}/outside/deep")
    assert _files(place.path.parent) == [f"{place.path.name}/SHA256SUMS", f"{place.path.name}/model.onnx"]
    with pytest.raises(Fail, match="abc"):
        ort.InferenceSession(place.path / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("path", "change", "reason"),
    [
        (f"{BUCKET}/nothing", {}, "holds neither"),
        (f"{BUCKET}/nothing.onnx", {}, "does not exist"),
        ("other-bucket/model", {}, "there is no such bucket"),
        ("other-bucket/model.onnx", {}, "there is no such bucket"),
        (f"{BUCKET}/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret of the access key is wrong"),
        (f"{BUCKET}/x", {"AWS_ACCESS_KEY_ID": "wrong"}, "the access key is not known"),
        (f"{BUCKET}/x", {"awsAnonymousCredential": "true"}, "may not read this"),
        (f"{BUCKET}/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect"),
        (f"{BUCKET}/x", {"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint"),
    ],
)
def test_what_cannot_be_read(fetch: Fetcher, path: str, change: dict[str, str], reason: str) -> None:
    """Each mistake of an operator is told in words that name it, soon, and leaves nothing behind."""
    started_s = time.monotonic()
    with pytest.raises((SourceError, ArtifactError), match=reason):
        replace(fetch, environ={**fetch.environ, **change})(f"s3://{path}")
    assert time.monotonic() - started_s < 10
    assert fetch.kept() == []


def test_a_changed_object_is_refused(s3: S3Client) -> None:
    """What is read is what was found: an object that was overwritten in between is not taken."""
    s3.put_object(Bucket=BUCKET, Key="changed/model.onnx", Body=b"before")
    store = S3Store(s3, BUCKET, "changed")
    found = store.find("model.onnx")
    s3.put_object(Bucket=BUCKET, Key="changed/model.onnx", Body=b"after!")
    with pytest.raises(SourceError, match="has changed since"):
        list(store.read(found))


class Line:
    """A TCP connection to `port` that is cut, or becomes slow, after so many bytes of answers.

    Attributes:
        cuts: How many connections are still going to be cut.
    """

    def __init__(self, port: int, after_bytes: int, cuts: int, pause_s: float = 0.0) -> None:
        self._target, self._after_bytes, self._pause_s, self.cuts = port, after_bytes, pause_s, cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._copy, args=(near, far), daemon=True).start()
            threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    def _copy(self, from_: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):  # either end may be gone at any time
            while data := from_.recv(16384):
                to.sendall(data)

    def _answer(self, from_: socket.socket, to: socket.socket) -> None:
        count = 0
        with suppress(OSError), from_, to:
            while data := from_.recv(16384):
                count += len(data)
                if count > self._after_bytes and self.cuts > 0:
                    self.cuts -= 1
                    self._drip(data, to)
                    break
                to.sendall(data)
            for one in (from_, to):
                one.shutdown(socket.SHUT_RDWR)

    def _drip(self, data: bytes, to: socket.socket) -> None:
        for i in range(len(data) if self._pause_s else 0):
            to.sendall(data[i : i + 1])
            if self._closed.wait(self._pause_s):
                return


@contextmanager
def _through(line: Line, fetch: Fetcher) -> Iterator[Fetcher]:
    try:
        yield replace(fetch, environ={**fetch.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"})
    finally:
        line.close()


def test_a_broken_download_is_tried_again_but_never_served(
    fetch: Fetcher, s3: S3Client, minio: Running, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """A connection cut in the middle of the model is made again; cut each time, there is an error and no folder."""
    _put(s3, save(tmp_path / "m"), "broken/")
    with _through(Line(minio.port, 30_000, cuts=99), fetch) as broken:
        with pytest.raises(SourceError, match=r"broken/model\.onnx"):
            broken(f"s3://{BUCKET}/broken")
        assert fetch.kept() == []
    with _through(Line(minio.port, 30_000, cuts=1), fetch) as mended:
        place = mended(f"s3://{BUCKET}/broken")
    assert artifact.find(place.path).model_digest == artifact.find(tmp_path / "m").model_digest


def test_a_server_that_drips(
    fetch: Fetcher, s3: S3Client, minio: Running, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """A byte now and then, which no timeout of a socket notices, does not hold up the start beyond the time budget."""
    _put(s3, save(tmp_path / "m"), "slow/")
    with _through(Line(minio.port, 30_000, cuts=99, pause_s=0.1), fetch) as slow:
        started_s = time.monotonic()
        with pytest.raises(SourceError, match=r"slow was not fetched within 1\.5 s"):
            slow(f"s3://{BUCKET}/slow", download_timeout_s=1.5)
        assert time.monotonic() - started_s < 20
        assert [one for one in fetch.kept() if not one.startswith(".partial-")] == []
