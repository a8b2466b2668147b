"""Models fetched from a real MinIO and a real MLflow server, over connections that are sometimes bad."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from predictor import artifact, source
from predictor.errors import ArtifactError, SourceError
from predictor.s3_source import S3Access, S3Store
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from conftest import Fleet, Running
    from mlflow import MlflowClient
    from types_boto3_s3 import S3Client

pytest.importorskip("boto3")
BUCKET = "heimdall-models"


def _model(seed: int = 1, rows: int = 256) -> onnx.ModelProto:
    """`y` = `x` W with a random W of `rows` × 64 numbers."""
    weights = np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", size]) for n, size in (("x", rows), ("y", 64)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _save(folder: Path, seed: int = 1, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_model(seed), folder / "model.onnx", **options)
    return folder


@pytest.fixture(scope="module")
def s3(minio: Running) -> S3Client:
    """A client of MinIO, which has the bucket for models."""
    client = S3Access.from_environ(minio.environ).client()
    client.create_bucket(Bucket=BUCKET)
    return client


def _put(s3: S3Client, folder: Path, prefix: str) -> None:
    for path in filter(lambda one: one.is_file(), folder.rglob("*")):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}{path.relative_to(folder).as_posix()}", Body=path.read_bytes())


@dataclass(frozen=True)
class Fetcher:
    """Fetches into a folder of this test."""

    environ: Mapping[str, str]
    folder: Path

    def __call__(self, uri: str, **settings: Any) -> source.Place:  # noqa: ANN401 - any setting
        """The model's place on this machine."""
        return source.obtain(self.settings(uri, **settings), self.environ)

    def settings(self, uri: str, **settings: Any) -> Settings:  # noqa: ANN401 - any setting
        """The settings for it."""
        return replace(Settings(), model_uri=uri, download_dir=self.folder, **settings)

    def kept(self) -> list[str]:
        """What lies in the download folder."""
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def fetch(minio: Running, s3: S3Client, tmp_path: Path) -> Fetcher:  # noqa: ARG001 - the bucket has to be there
    """Fetches from MinIO."""
    return Fetcher(minio.environ, tmp_path / "kept")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_versions(fetch: Fetcher, s3: S3Client, tmp_path: Path) -> None:
    """The version asked for, else the highest, with its contract, and nothing that is not part of a model."""
    _save(tmp_path / "9", 9)
    ten = _save(tmp_path / "10", 10)
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


def test_what_is_published_checks_with_sha256sum(fetch: Fetcher, s3: S3Client, tmp_path: Path) -> None:
    """A foreign program agrees with the sums; the same files fetched twice are kept once, damaged ones replaced."""
    _put(s3, _save(tmp_path / "model"), "sums/")
    sha256sum = shutil.which("sha256sum") or pytest.skip("there is no sha256sum")
    for _ in range(3):
        place = fetch(f"s3://{BUCKET}/sums/model.onnx")
        subprocess.run([sha256sum, "--check", "--strict", "SHA256SUMS"], cwd=place.path, check=True, timeout=10)
        assert [one for one in fetch.kept() if not one.startswith(".")] == [place.path.name]
        (place.path / "model.onnx").write_bytes(b"damaged")


@pytest.mark.parametrize("location", ["weights.bin", "data/w.bin"])
def test_external_data(fetch: Fetcher, s3: S3Client, tmp_path: Path, location: str) -> None:
    """The files that a model names are fetched with it, for a folder as for the URI of the model itself."""
    (tmp_path / "m" / "data").mkdir(parents=True)
    folder = _save(tmp_path / "m", save_as_external_data=True, location=location, size_threshold=0)
    _put(s3, folder, f"external/{location}/")
    for uri in (f"s3://{BUCKET}/external/{location}", f"s3://{BUCKET}/external/{location}/model.onnx"):
        place = fetch(uri)
        assert _files(place.path) == sorted(["SHA256SUMS", "model.onnx", location])
        assert artifact.find(place.path).model_digest == artifact.find(folder).model_digest


def test_external_data_outside_the_folder_is_never_fetched(fetch: Fetcher, s3: S3Client, tmp_path: Path) -> None:
    """A model that names `../secret` gets nothing from there, and cannot be served."""
    folder = _save(tmp_path / "m", save_as_external_data=True, location="secret", size_threshold=0)
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
    fetch: Fetcher, s3: S3Client, minio: Running, tmp_path: Path
) -> None:
    """A connection cut in the middle of the model is made again; cut each time, there is an error and no folder."""
    _put(s3, _save(tmp_path / "m"), "broken/")
    with _through(Line(minio.port, 30_000, cuts=99), fetch) as broken:
        with pytest.raises(SourceError, match=r"broken/model\.onnx"):
            broken(f"s3://{BUCKET}/broken")
        assert fetch.kept() == []
    with _through(Line(minio.port, 30_000, cuts=1), fetch) as mended:
        place = mended(f"s3://{BUCKET}/broken")
    assert artifact.find(place.path).model_digest == artifact.find(tmp_path / "m").model_digest


def test_a_server_that_drips(fetch: Fetcher, s3: S3Client, minio: Running, tmp_path: Path) -> None:
    """A byte now and then, which no timeout of a socket notices, does not hold up the start beyond the time budget."""
    _put(s3, _save(tmp_path / "m"), "slow/")
    with _through(Line(minio.port, 30_000, cuts=99, pause_s=0.1), fetch) as slow:
        started_s = time.monotonic()
        with pytest.raises(SourceError, match=r"slow was not fetched within 1\.5 s"):
            slow(f"s3://{BUCKET}/slow", download_timeout_s=1.5)
        assert time.monotonic() - started_s < 4
        assert [one for one in fetch.kept() if not one.startswith(".partial-")] == []


@dataclass(frozen=True)
class Registered:
    """A registry with the model `localization_model`: 1 is handed out by MLflow, 2 lies in a bucket."""

    client: MlflowClient
    folders: Mapping[str, Path]


@pytest.fixture(scope="module")
def registered(mlflow_server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """Filled by MLflow's own client and its ONNX flavour, whose files include some that are not the model's."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow and what it imports
        for name, text in {**mlflow_server.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
            patch.setenv(name, text)
        import mlflow.onnx  # noqa: PLC0415 - takes seconds, which only these tests need

        client = mlflow.MlflowClient()
        client.create_registered_model("localization_model")
        in_bucket = client.create_experiment("in a bucket", artifact_location="s3://mlflow/in-bucket")
        folders = {}
        for version, experiment in (("1", "0"), ("2", in_bucket)):
            folders[version] = tmp_path_factory.mktemp("logged")
            mlflow.onnx.save_model(_model(int(version)), folders[version] / "m", pip_requirements=["onnx"])
            (folders[version] / "m" / "python_model.pkl").write_bytes(b"never")
            logged = client.create_logged_model(experiment, name="m")
            client.log_model_artifacts(logged.model_id, str(folders[version] / "m"))
            client.create_model_version("localization_model", f"models:/{logged.model_id}", model_id=logged.model_id)
        client.create_model_version("localization_model", "gs://elsewhere/model")
        client.create_model_version("localization_model", "s3://mlflow/gone")
        client.delete_model_version("localization_model", "4")
        client.set_registered_model_alias("localization_model", "champion", "1")
        client.transition_model_version_stage("localization_model", "2", "Production")
        yield Registered(client, {version: folder / "m" for version, folder in folders.items()})


@pytest.fixture
def ask(mlflow_server: Running, tmp_path: Path) -> Fetcher:
    """Fetches from the registry."""
    return Fetcher(mlflow_server.environ, tmp_path / "kept")


@pytest.mark.parametrize(
    ("reference", "version"), [("@champion", "1"), ("/1", "1"), ("/2", "2"), ("/Production", "2"), ("/production", "2")]
)
def test_registered_models(registered: Registered, ask: Fetcher, reference: str, version: str) -> None:
    """Alias, version and stage find the files that MLflow's own client logged, from MLflow and from the bucket."""
    told = registered.client.get_model_version("localization_model", version)
    assert told.source.startswith("models:/m-")
    place = ask(f"models:/localization_model{reference}")
    assert place.version == version
    logged = {path.name for path in registered.folders[version].iterdir()}
    data = {name for name in logged if name.endswith(".data")}
    assert set(_files(place.path)) == {"SHA256SUMS", "model.onnx"} | data
    assert len(data) == 1
    assert logged > {"MLmodel", "python_model.pkl"}
    expected = artifact.find(registered.folders[version], version)
    assert artifact.find(place.path, place.version, expected.model_digest).version == version


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("models:/localization_model@nobody", "answers 400: Registered model alias nobody not found"),
        ("models:/localization_model/99", "answers 404: .*version=99"),
        ("models:/localization_model/4", "answers 404: .*version=4"),
        ("models:/unknown/1", "answers 404"),
        ("models:/localization_model/Staging", "no version of localization_model is in the stage Staging"),
        ("models:/localization_model/Best", "Invalid Model Version stage: Best"),
        ("models:/localization_model/3", "gs://elsewhere/model, which cannot be read from here"),
    ],
)
def test_what_is_not_registered(registered: Registered, ask: Fetcher, uri: str, reason: str) -> None:  # noqa: ARG001 - fills the registry
    """What is unknown, deleted, or out of reach is told in the registry's words, and leaves nothing behind."""
    with pytest.raises(SourceError, match=reason):
        ask(uri)
    assert ask.kept() == []


def test_an_alias_that_moves_meanwhile(registered: Registered, ask: Fetcher) -> None:
    """What was resolved is what is fetched: moving the alias in between changes nothing."""
    uri = "models:/localization_model@moving"
    registered.client.set_registered_model_alias("localization_model", "moving", "1")
    pinned = source.resolve(uri, ask.environ)
    registered.client.set_registered_model_alias("localization_model", "moving", "2")
    place = source.fetch(pinned, ask.settings(uri))
    assert place.version == "1"
    assert artifact.digest_of(place.path / "model.onnx") == artifact.find(registered.folders["1"]).model_digest
    assert source.resolve(uri, ask.environ).version == "2"
    with pytest.raises(SourceError, match="is version 2, but version 1 was asked for"):
        ask(uri, model_version="1")


def test_the_predictor_starts_from_the_registry(
    registered: Registered, ask: Fetcher, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process serves the version that the alias means with its digest, and says why it serves no other."""
    for name, text in ask.environ.items():
        monkeypatch.setenv(name, text)
    digests = {version: artifact.find(folder).model_digest for version, folder in registered.folders.items()}
    options = ("--model_uri", "models:/localization_model@champion", "--download_dir", str(tmp_path))
    server = fleet.predictor(tmp_path, *options, "--model_digest", digests["1"])
    told = server.call("GET", "/v2/models/localization").json
    assert (told["versions"], told["parameters"]["model_digest"]) == (["1"], digests["1"])
    command = [sys.executable, "-m", "predictor", *options, f"--model_digest={digests['2']}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"has the digest {digests['1']}, but {digests['2']} was asked for" in ended.stderr.splitlines()[-1]
