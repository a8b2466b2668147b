"""Models fetched from a real MLflow server: what it hands out itself, and what lies in a bucket."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from predictor import artifact, source
from predictor.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import onnx
    from conftest import Fetcher, Fleet, Running
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Registered:
    """A registry with the model `localization_model`: 1 is handed out by MLflow, 2 lies in a bucket."""

    client: MlflowClient
    folders: Mapping[str, Path]


@pytest.fixture(scope="module")
def registered(
    mlflow_server: Running, make_model: Callable[[int], onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registered]:
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
            mlflow.onnx.save_model(make_model(int(version)), folders[version] / "m", pip_requirements=["onnx"])
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


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
