from __future__ import annotations

from typing import Any

import httpx
import pytest

from predictor import registry_source
from predictor.errors import SourceError
from predictor.registry_source import ModelReference, Registry

HOST = "http://mlflow.example:5000"


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("models:/localization_model@champion", ModelReference("localization_model", alias="champion")),
        ("models:/localization_model/12", ModelReference("localization_model", version="12")),
        ("models:/localization_model/Production", ModelReference("localization_model", stage="Production")),
    ],
)
def test_references(uri: str, reference: ModelReference) -> None:
    """The three ways to name a registered version."""
    assert ModelReference.parse(uri) == reference


@pytest.mark.parametrize(
    "uri",
    ["models:/m", "models:/m-0123", "models:/m/latest", "models:/m/", "models:/m@", "models:/a/b/1", "models://m/1"],
)
def test_what_is_no_reference(uri: str) -> None:
    """What has no version, or a moving one, is refused with what would do."""
    with pytest.raises(SourceError, match=r"is models:/NAME@ALIAS, models:/NAME/VERSION or models:/NAME/STAGE"):
        ModelReference.parse(uri)


def _registry(answers: dict[str, Any]) -> Registry:
    """A registry that knows these paths, with their parameters; anything else fails the test."""

    def answer(request: httpx.Request) -> httpx.Response:
        told = answers[httpx.URL(request.url).raw_path.decode().removeprefix("/api/2.0/")]
        return (
            httpx.Response(200, stream=httpx.ByteStream(told))
            if isinstance(told, bytes)
            else httpx.Response(200, json=told)
        )

    return Registry(httpx.Client(base_url=HOST, transport=httpx.MockTransport(answer)))


VERSION = "mlflow/model-versions/get?name=m&version=3"
FILES = "mlflow/model-versions/get-download-uri?name=m&version=3"
READY = {"model_version": {"version": "3", "status": "READY"}}


@pytest.mark.parametrize(
    ("found", "files"),
    [
        ({FILES: {"artifact_uri": "s3://b/x"}}, "s3://b/x"),
        (
            {
                FILES: {"artifact_uri": "models:/m-77"},
                "mlflow/logged-models/m-77": {"model": {"info": {"artifact_uri": "mlflow-artifacts:/1/m"}}},
            },
            "mlflow-artifacts:/1/m",
        ),
        ({FILES: {}}, ""),
    ],
)
def test_where_the_files_lie(found: dict[str, Any], files: str) -> None:
    """The download URI, or that of the logged model which it names."""
    resolved = _registry({VERSION: READY, **found}).resolve(ModelReference("m", version="3"))
    assert (resolved.version, resolved.files) == ("3", files)


def test_the_latest_version_of_a_stage() -> None:
    """Numbers are compared as numbers."""
    stage = {
        "mlflow/registered-models/get-latest-versions?name=m&stages=Production": {
            "model_versions": [{"version": "9"}, {"version": "10"}]
        }
    }
    files = {"mlflow/model-versions/get-download-uri?name=m&version=10": {"artifact_uri": "s3://b/x"}}
    assert _registry(stage | files).resolve(ModelReference("m", stage="Production")).version == "10"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"model_version": {"version": "3", "status": "PENDING_REGISTRATION"}}, "3 of m is PENDING_REGISTRATION"),
        ({}, "is MLFLOW_TRACKING_URI really an MLflow server"),
        ({"model_version": {}}, "version  of m is None"),
    ],
)
def test_versions_that_cannot_be_used(told: dict[str, Any], words: str) -> None:
    """A version that is not ready, and an answer that MLflow would not give, are refused."""
    with pytest.raises(SourceError, match=words):
        _registry({VERSION: told}).resolve(ModelReference("m", version="3"))


LIST = "mlflow-artifacts/artifacts?path="


def test_a_folder_that_mlflow_hands_out() -> None:
    """Files are found below folders, with their sizes, and read as they are."""
    store = _registry(
        {
            f"{LIST}1%2Fm": {"files": [{"path": "a b.onnx", "file_size": "3"}, {"path": "data", "is_dir": True}]},
            f"{LIST}1%2Fm%2Fdata": {"files": [{"path": "w.bin"}]},
            f"{LIST}1%2Fm%2Fnone": {},
            "mlflow-artifacts/artifacts/1/m/a%20b.onnx": b"abc",
        }
    ).store("mlflow-artifacts:/1/m/")
    assert store.where == "mlflow-artifacts:/1/m"
    assert store.names() == ["a b.onnx", "data/w.bin"]
    found, weights = store.find("a b.onnx"), store.find("data/w.bin")
    assert found is not None
    assert weights is not None
    assert (found.size_bytes, weights.size_bytes) == (3, None)
    assert b"".join(store.read(found)) == b"abc"
    assert [store.find(name) for name in ("data", "none/x", "x")] == [None, None, None]


def test_a_folder_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than a model has end the listing."""
    monkeypatch.setattr(registry_source, "MAX_FILES", 1)
    store = _registry({f"{LIST}m": {"files": [{"path": "a"}, {"path": "b"}]}}).store("mlflow-artifacts:/m")
    with pytest.raises(SourceError, match="holds more than 1 files"):
        store.names()


def test_credentials_stay_with_their_server() -> None:
    """Files on another server than the registry's are not asked for; its own address may be spelled out."""
    registry = _registry({})
    assert registry.store("mlflow-artifacts://mlflow.example:5000/m").where == "mlflow-artifacts:/m"
    for files in ("mlflow-artifacts://elsewhere/m", "mlflow-artifacts://mlflow.example:80/m"):
        with pytest.raises(SourceError, match="on another server than MLFLOW_TRACKING_URI"):
            registry.store(files)


def test_an_error_while_reading_is_told() -> None:
    """The server's message reaches the operator also when a file was asked for."""
    client = httpx.Client(
        base_url=HOST, transport=httpx.MockTransport(lambda _: httpx.Response(403, json={"message": "not yours"}))
    )
    store = Registry(client).store("mlflow-artifacts:/m")
    with pytest.raises(SourceError, match="answers 403: not yours"):
        list(store.read(registry_source.RemoteFile("model.onnx", 1)))
