"""Servers that other people wrote, as child processes on free ports of 127.0.0.1: MinIO and MLflow.

Each is started once for the tests of a worker that ask for it. Without MinIO's program (on PATH, or named by MINIO_BIN)
its tests are skipped, but in continuous integration (CI=true) they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from held_port import held_port
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# How long an example takes, or making one, says something about the machine only: nothing here is judged by it.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_START_S, _STOP_S = 90.0, 10.0
_KEY_ID, _SECRET_KEY = "heimdall", "only-for-tests"
_MINIO_PLACES = (os.environ.get("MINIO_BIN"), "minio", Path.home() / ".cache/cluster/bin/minio")


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: On 127.0.0.1.
        environ: How it is reached, in the names that KServe and MLflow give to the environment.
        process: Its own.
    """

    port: int
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A MinIO without buckets."""
    program = next((found for place in _MINIO_PLACES if place and (found := shutil.which(place))), None)
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no minio; MINIO_BIN may name it")
    folder, port = tmp_path_factory.mktemp("minio"), held_port()
    command = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    own = {"MINIO_ROOT_USER": _KEY_ID, "MINIO_ROOT_PASSWORD": _SECRET_KEY, "MINIO_BROWSER": "off"}
    with _running(command, folder, f"http://127.0.0.1:{port}/minio/health/ready", own) as process:
        environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": _KEY_ID,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield Running(port, environ, process)


@pytest.fixture(scope="session")
def mlflow_server(minio: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An MLflow server that hands out the artifacts itself and keeps them in MinIO's bucket `mlflow`.

    Experiments with an artifact location of their own, in s3://mlflow, leave it to the client to read them there.
    """
    boto3 = pytest.importorskip("boto3")
    access = {"aws_access_key_id": _KEY_ID, "aws_secret_access_key": _SECRET_KEY, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=minio.url, **access).create_bucket(Bucket="mlflow")
    artifacts = ("--serve-artifacts", "--artifacts-destination", "s3://mlflow/handed-out")
    with _mlflow(tmp_path_factory.mktemp("mlflow"), artifacts, minio.environ) as running:
        yield running


@pytest.fixture
def own_mlflow_server(tmp_path: Path) -> Iterator[Running]:
    """An MLflow server of this test alone, which may stop it: a registry whose files nobody reads."""
    with _mlflow(tmp_path, ("--default-artifact-root", str(tmp_path)), {}) as running:
        yield running


@contextmanager
def _mlflow(folder: Path, artifacts: tuple[str, ...], environ: Mapping[str, str]) -> Iterator[Running]:
    """An MLflow server that keeps its registry in the folder; the environment says how its artifacts are reached."""
    pytest.importorskip("mlflow")
    port = held_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/registry.db", *artifacts]
    own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    with _running(command, folder, f"{url}/health", own | dict(environ)) as process:
        yield Running(port, {**environ, "MLFLOW_TRACKING_URI": url}, process)


@contextmanager
def _running(
    command: list[str], folder: Path, health: str, own: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **own}, start_new_session=True
        )
    try:
        _wait(process, health, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError), urllib.request.urlopen(health, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"{health} did not answer:\n{log.read_text()[-4000:]}")
