"""`helm upgrade` beside a rollout: the rollout's fields stay as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Cluster, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAMESPACE, RELEASE = "heimdall-e2e-helm", "upgraded"
GROUP = "serving.kserve.io/v1beta1"


@pytest.fixture
def helm(service: Service, pytestconfig: pytest.Config) -> Iterator[list[str]]:
    """`helm upgrade --install` of a release in a namespace of its own; only the objects count."""
    if not shutil.which("helm"):
        pytest.skip("helm is not on the PATH")
    chart = str(pytestconfig.rootpath / "charts" / "heimdall")
    base = ["helm", "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace"]
    values = ["storage.s3.accessKeyId=a", "storage.s3.secretAccessKey=b", "redis.mode=none"]
    values += ["predictor.minReplicas=0", "transformer.minReplicas=0"]
    yield base + [word for value in values for word in ("--set", value)]
    run(["helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])
    kinds = "inferenceservices,servingruntimes,secrets,serviceaccounts,roles,rolebindings,clusterstoragecontainers"
    left = service.cluster.kubectl(
        "get", kinds, "-n", NAMESPACE, "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE}"
    )
    service.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait")
    assert not left, "helm uninstall leaves nothing"


def run(command: list[str]) -> str:
    """A command that succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def roll_out(cluster: Cluster, uri: str, percent: int | None) -> None:
    """What a rollout does to the release's service."""
    model = {"storageUri": uri, "env": [{"name": "HEIMDALL_MODEL_VERSION", "value": "2"}]}
    share = {} if percent is None else {"canaryTrafficPercent": percent}
    body = {"apiVersion": GROUP, "kind": "InferenceService", "metadata": {"name": RELEASE}}
    cluster.apply(
        body | {"spec": {"predictor": {"model": model} | share}}, manager="heimdall-rollout", namespace=NAMESPACE
    )


def predictor(cluster: Cluster) -> dict[str, Any]:
    """The predictor's specification as the cluster has it."""
    spec: dict[str, Any] = cluster.get("InferenceService", RELEASE, NAMESPACE)["spec"]["predictor"]
    return spec


def test_an_upgrade_changes_neither_model_nor_split(service: Service, helm: list[str]) -> None:
    """In the middle of a canary and after its promotion, with changed values that are not the rollout's."""
    cluster = service.cluster
    run(helm)
    assert predictor(cluster)["model"]["storageUri"] == "s3://heimdall-models/model.onnx"
    roll_out(cluster, "s3://heimdall-models/better/model.onnx", 10)
    notes = run([*helm, "--set", "predictor.timeoutSeconds=45"])
    during = predictor(cluster)
    assert during["timeout"] == 45
    assert during["canaryTrafficPercent"] == 10
    assert during["model"]["storageUri"] == "s3://heimdall-models/better/model.onnx"
    assert {"name": "HEIMDALL_MODEL_VERSION", "value": "2"} in during["model"]["env"]
    assert "Kept from the cluster" in notes
    roll_out(cluster, "s3://heimdall-models/better/model.onnx", None)
    run([*helm, "--set", "predictor.timeoutSeconds=50"])
    after = predictor(cluster)
    assert "canaryTrafficPercent" not in after
    assert after["model"]["storageUri"] == "s3://heimdall-models/better/model.onnx"
    run([*helm, "--set", "model.owner=values"])
    assert predictor(cluster)["model"]["storageUri"] == "s3://heimdall-models/model.onnx"


def test_an_upgrade_from_the_last_release_keeps_the_canary(
    service: Service, helm: list[str], pytestconfig: pytest.Config
) -> None:
    """The chart of tests/chart/released, installed and in the middle of a canary, becomes the chart of this tree."""
    cluster = service.cluster
    (released,) = (pytestconfig.rootpath / "tests" / "chart" / "released").glob("heimdall-*.tgz")
    run([str(released) if word.endswith("/charts/heimdall") else word for word in helm])
    roll_out(cluster, "s3://heimdall-models/better/model.onnx", 10)
    before = predictor(cluster)
    run(helm)
    after = predictor(cluster)
    assert after["canaryTrafficPercent"] == before["canaryTrafficPercent"] == 10
    assert after["model"]["storageUri"] == before["model"]["storageUri"] == "s3://heimdall-models/better/model.onnx"
    assert {"name": "HEIMDALL_MODEL_VERSION", "value": "2"} in after["model"]["env"]
    charts = json.loads(run(["helm", "list", "--namespace", NAMESPACE, "--output", "json"]))
    assert [one["chart"] for one in charts] != [released.stem]
