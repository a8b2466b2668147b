"""Models to fetch, the bucket that they are fetched from, and how a test fetches them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from predictor import source
from predictor.s3_source import S3Access
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from conftest import Running
    from types_boto3_s3 import S3Client


@pytest.fixture(scope="session")
def make_model() -> Callable[[int], onnx.ModelProto]:
    """Makes a model of 64 kB: `y` = `x` W with W drawn from the seed."""
    return _model


def _model(seed: int) -> onnx.ModelProto:
    weights = np.random.default_rng(seed).normal(size=(256, 64)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", size]) for n, size in (("x", 256), ("y", 64)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="session")
def s3(minio: Running) -> S3Client:
    """A client of MinIO, which has the bucket for models."""
    pytest.importorskip("boto3")
    client = S3Access.from_environ(minio.environ).client()
    client.create_bucket(Bucket="heimdall-models")
    return client


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


@pytest.fixture
def ask(mlflow_server: Running, tmp_path: Path) -> Fetcher:
    """Fetches from the registry."""
    return Fetcher(mlflow_server.environ, tmp_path / "kept")
