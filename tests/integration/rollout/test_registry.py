"""Versions of a real MLflow server, and their files in a real MinIO."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING

import pytest

from rollout.artifact import Artifacts, s3_client
from rollout.errors import ArtifactError, RegistryError
from rollout.registry import Reference, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Running
    from mlflow import MlflowClient
    from types_boto3_s3 import S3Client

MODEL = "localization_release"


@pytest.fixture(scope="module")
def environ(mlflow_server: Running) -> Iterator[Mapping[str, str]]:
    """How both servers are reached."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in {**mlflow_server.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
            patch.setenv(name, text)
        yield mlflow_server.environ


@pytest.fixture(scope="module")
def s3(environ: Mapping[str, str]) -> S3Client:  # noqa: ARG001 - has to be set
    """A client with a bucket of these tests' own."""
    client = s3_client()
    client.create_bucket(Bucket="rollout")
    return client


@pytest.fixture(scope="module")
def client(environ: Mapping[str, str]) -> MlflowClient:  # noqa: ARG001 - has to be set
    """MLflow's own client, with three versions: 1 with a run, 2 logged by MLflow's ONNX flavour, 3 out of reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow and what it imports
        from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds, which only these tests need

        found = MlflowClient()
        found.create_registered_model(MODEL)
        run = found.create_run(found.create_experiment("training", artifact_location="s3://rollout/runs"))
        for name, value in {"rms_m": 3.5, "loss": float("nan")}.items():
            found.log_metric(run.info.run_id, name, value)
        found.create_model_version(MODEL, "s3://rollout/one", run_id=run.info.run_id)
        found.create_model_version(MODEL, "s3://rollout/logged")
        found.create_model_version(MODEL, "gs://elsewhere/model")
        found.set_registered_model_alias(MODEL, "challenger", "1")
        found.transition_model_version_stage(MODEL, "2", "Production")
    return found


@pytest.fixture
def registry(client: MlflowClient) -> Registry:  # noqa: ARG001 - fills the server
    """What is tested."""
    return Registry.connect()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("challenger", "1"),
        ("2", "2"),
        (f"models:/{MODEL}@challenger", "1"),
        (f"{MODEL}/3", "3"),
        (f"{MODEL}/Production", "2"),
    ],
)
def test_every_way_to_name_a_version(registry: Registry, text: str, version: str) -> None:
    """Alias, number, stage, with and without the model's name."""
    found = registry.resolve(Reference.parse(text, MODEL))
    assert (found.name, found.version) == (MODEL, version)
    if version == "1":
        assert (found.source, found.metrics) == ("s3://rollout/one", (("rms_m", 3.5),))
        assert len(found.run_id) == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "alias nobody not found"),
        ("99", "version=99"),
        ("unknown/1", "unknown"),
        (f"{MODEL}/Staging", "no version of localization_release is in the stage Staging"),
        ("a:b/c@d", "names no version"),
    ],
)
def test_what_there_is_not(registry: Registry, text: str, message: str) -> None:
    """The registry's own words, in one line."""
    with pytest.raises(RegistryError, match=message) as caught:
        registry.resolve(Reference.parse(text, MODEL))
    assert "\n" not in str(caught.value)


def test_aliases_and_tags(registry: Registry, client: MlflowClient) -> None:
    """Moved and set as MLflow's own client sees them; a tag that is not there can be removed."""
    registry.move_alias(MODEL, "champion", "2")
    assert registry.version_of_alias(MODEL, "champion") == "2"
    assert registry.version_of_alias(MODEL, "nobody") == ""
    registry.remove_alias(MODEL, "champion")
    assert registry.version_of_alias(MODEL, "champion") == ""
    registry.tag(MODEL, "1", {"stage": "canary at 5 %", "rejected": "x" * 9_000})
    tags = client.get_model_version(MODEL, "1").tags
    assert tags["heimdall.rollout.stage"] == "canary at 5 %"
    assert len(tags["heimdall.rollout.rejected"]) == 5_000
    registry.untag(MODEL, "1", "rejected")
    registry.untag(MODEL, "1", "rejected")
    assert "heimdall.rollout.rejected" not in client.get_model_version(MODEL, "1").tags


def test_a_registry_that_is_away(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told within seconds; without an address there is none."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=MODEL):
        Registry.connect().resolve(Reference.parse("1", MODEL))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI is not set"):
        Registry.connect()
    assert registry.version_of_alias(MODEL, "challenger") == "1"


@pytest.fixture
def put(s3: S3Client) -> Callable[..., None]:
    """Puts objects into the bucket."""

    def put(**objects: bytes) -> None:
        for name, content in objects.items():
            s3.put_object(Bucket="rollout", Key=name, Body=content)

    return put


def test_a_model_with_its_contract(s3: S3Client, put: Callable[..., None], model_dir: Callable[[str], Path]) -> None:
    """The digests are those that the predictor computes: of the file, and of the contract in its metadata."""
    content = (model_dir("reference") / "model.onnx").read_bytes()
    put(**{"one/model.onnx": content, "versioned/7/model.onnx": content})
    found = Artifacts(s3).inspect("s3://rollout/one", "1")
    assert found.model_digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert (found.storage_uri, found.bytes, found.signature) == ("s3://rollout/one", len(content), "")
    assert Artifacts(s3).inspect("s3://rollout/one/model.onnx", "1").contract_digest == found.contract_digest
    assert Artifacts(s3).inspect("s3://rollout/versioned/", "7").model_digest == found.model_digest
    contract = b'{"b": 1, "a": "\xc3\xa9"}'
    put(**{"one/contract.json": contract})
    canonical = '{"a":"é","b":1}'.encode()
    overridden = Artifacts(s3).inspect("s3://rollout/one", "1")
    assert overridden.contract_digest == "sha256:" + hashlib.sha256(canonical).hexdigest() != found.contract_digest


def test_the_predictor_finds_the_same_digests(
    s3: S3Client, put: Callable[..., None], tmp_path: Path, client: MlflowClient
) -> None:
    """Also of a model whose tensors lie in another file, as MLflow's ONNX flavour logs it; the signature is read."""
    onnx = pytest.importorskip("onnx")
    import numpy as np  # noqa: PLC0415 - only here
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - only here

    from predictor.artifact import digest_of  # noqa: PLC0415 - the other room's own computation

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])
    weights = numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    made = helper.make_model(helper.make_graph([node], "g", [value], [out], [weights]))
    path = tmp_path / "model.onnx"
    onnx.save_model(made, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    signature = 'signature:\n  inputs: \'[{"type": "tensor"}]\'\n'
    put(
        **{
            "logged/model.onnx": path.read_bytes(),
            "logged/model.onnx.data": (tmp_path / "model.onnx.data").read_bytes(),
            "logged/MLmodel": signature.encode(),
        }
    )
    registered = Registry(client).resolve(Reference.parse("2", MODEL))
    found = Artifacts(s3).inspect(registered.source, registered.version)
    assert found.model_digest == digest_of(path) != "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(found.signature) == {"inputs": '[{"type": "tensor"}]'}
    assert found.contract_digest == ""


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlflow-artifacts:/1/m", r"read s3://BUCKET/KEY"),
        ("s3://rollout/nothing", r"holds neither model\.onnx nor 1/model\.onnx"),
        ("s3://rollout/nothing.onnx", "NoSuchKey"),
        ("s3://no-bucket/m", "holds neither"),
        ("s3://rollout/broken", "holds no model that can be read"),
        ("s3://rollout/empty", "is empty"),
        ("s3://rollout/odd", "is not JSON"),
    ],
)
def test_files_that_are_no_model(
    s3: S3Client, put: Callable[..., None], model_dir: Callable[[str], Path], uri: str, message: str
) -> None:
    """Each is told with its place."""
    put(**{"broken/model.onnx": b"\xff" * 30, "empty/model.onnx": b"", "odd/contract.json": b"{"})
    put(**{"odd/model.onnx": (model_dir("reference") / "model.onnx").read_bytes()})
    with pytest.raises(ArtifactError, match=message):
        Artifacts(s3).inspect(uri, "1")


def test_a_bucket_that_is_closed(s3: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - makes it
    """Wrong keys are told as such, and not taken for files that are not there."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key")
    with pytest.raises(ArtifactError, match=r"403|SignatureDoesNotMatch"):
        Artifacts(s3_client()).inspect("s3://rollout/one", "1")
