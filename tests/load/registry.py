"""A bucket and a registry as child processes, and models in them.

What belongs here: MinIO, MLflow's server, and what an operator does there. What does not: faults.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import orjson
from processes import Part, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKET, MODEL, ALIAS = "models", "localization_model", "champion"
_KEYS = {"AWS_ACCESS_KEY_ID": "heimdall", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_DEFAULT_REGION": "us-east-1"}
_CALL_S = 30.0


def minio_program() -> str | None:
    """Where MinIO's program is: named by MINIO_BIN, on the PATH, or with the tests' cluster."""
    places = (os.environ.get("MINIO_BIN"), "minio", str(Path.home() / ".cache/cluster/bin/minio"))
    return next((found for place in places if place and (found := shutil.which(place))), None)


def minio_part(folder: Path) -> Part:
    """A MinIO that keeps its objects in the folder."""
    port = free_port()
    command = [minio_program() or "minio", "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "minio")]
    own = {
        "MINIO_ROOT_USER": _KEYS["AWS_ACCESS_KEY_ID"],
        "MINIO_ROOT_PASSWORD": _KEYS["AWS_SECRET_ACCESS_KEY"],
        "MINIO_BROWSER": "off",
    }
    return Part("minio", command, port, folder, "/minio/health/ready", own)


def mlflow_part(folder: Path) -> Part:
    """An MLflow server with a registry; the models' files lie in MinIO, where MLflow is not asked for them."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/registry.db", "--default-artifact-root", str(folder)]
    own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Part("mlflow", command, port, folder, "/health", own)


def access(minio_port: int, mlflow_port: int | None = None) -> dict[str, str]:
    """The environment with which a predictor finds them at these ports of 127.0.0.1."""
    tracking = {} if mlflow_port is None else {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}"}
    return {**_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{minio_port}", **tracking}


def fill_bucket(minio_port: int, files: Mapping[str, bytes]) -> None:
    """Put files into a bucket, which is made if it is missing."""
    key, secret, region = _KEYS.values()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{minio_port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
    )
    if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    for key, content in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)


@dataclass(frozen=True, slots=True)
class Registry:
    """What an operator does in MLflow, over its REST API 2.0."""

    url: str

    def register(self, folder: str) -> str:
        """A new version whose files lie in a folder of the bucket; its number."""
        told = self._call("model-versions/create", name=MODEL, source=f"s3://{BUCKET}/{folder}")
        return str(told["model_version"]["version"])

    def create(self) -> None:
        """The registered model without versions."""
        self._call("registered-models/create", name=MODEL)

    def point(self, version: str) -> None:
        """Let the alias mean this version."""
        self._call("registered-models/alias", name=MODEL, alias=ALIAS, version=version)

    def _call(self, path: str, **members: str) -> dict[str, dict[str, str]]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/{path}", orjson.dumps(members), headers)
        with urllib.request.urlopen(request, timeout=_CALL_S) as answer:
            told: dict[str, dict[str, str]] = orjson.loads(answer.read())
            return told
