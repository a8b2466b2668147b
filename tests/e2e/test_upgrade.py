"""`helm upgrade` beside a rollout: the rollout's fields stay as they are. And what is left after `helm uninstall`."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from rollout.inference_service import InferenceService
from rollout.kubernetes_api import KubernetesApi
from rollout.lease import Lease
from rollout.policy import Policy
from rollout.record import Record
from rollout.release import ModelVersion, Release, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Cluster, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAMESPACE, RELEASE = "heimdall-e2e-helm", "upgraded"
GROUP = "serving.kserve.io/v1beta1"
KINDS = (
    *("inferenceservices.serving.kserve.io", "servingruntimes.serving.kserve.io"),
    *("clusterstoragecontainers.serving.kserve.io", "services.serving.knative.dev", "deployments.apps", "jobs.batch"),
    *("services", "configmaps", "secrets", "serviceaccounts", "cronjobs.batch", "poddisruptionbudgets.policy"),
    *("networkpolicies.networking.k8s.io", "roles.rbac.authorization.k8s.io", "leases.coordination.k8s.io"),
    *("rolebindings.rbac.authorization.k8s.io", "validatingadmissionpolicies.admissionregistration.k8s.io"),
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
)
MEMORY = (f"configmap/{RELEASE}-rollout", f"lease.coordination.k8s.io/heimdall-rollout-{RELEASE}")
EVERYTHING = {
    "redis": {"mode": "bundled"},
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "metrics": {"dashboard": {"enabled": True}, "coverageWatch": {"enabled": True, "url": "http://ingress"}},
    "rollout": {
        "admission": {"enabled": True},
        "run": "scheduled",
        "schedule": "0 0 1 1 *",
        "mlflowUri": "http://mlflow",
        "prometheusUrl": "http://prometheus",
        "probeSet": "s3://heimdall-models/probe",
    },
}
"""All that needs no operator; the CronJob would run at New Year."""


@pytest.fixture
def helm(helm_program: str, service: Service, pytestconfig: pytest.Config) -> Iterator[list[str]]:
    """`helm upgrade --install` of a release in a namespace of its own; only the objects count."""
    chart = str(pytestconfig.rootpath / "charts" / "heimdall")
    base = [helm_program, "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace"]
    values = ["storage.s3.accessKeyId=a", "storage.s3.secretAccessKey=b", "redis.mode=none"]
    values += ["predictor.minReplicas=0", "transformer.minReplicas=0"]
    yield base + [word for value in values for word in ("--set", value)]
    run([helm_program, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])
    service.cluster.wait_until(lambda: not left_of_release(service.cluster), 60, "helm uninstall leaves nothing")
    service.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait")


def left_of_release(cluster: Cluster) -> str:
    """What there still is of it: by its label, and by the names of what a rollout makes."""
    words = ("--namespace", NAMESPACE, "--ignore-not-found", "--output", "name")
    labelled = ("get", ",".join(KINDS), *words, f"--selector=app.kubernetes.io/instance={RELEASE}")
    return cluster.kubectl(*labelled) + cluster.kubectl("get", *MEMORY, *words)


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


def test_helm_uninstall_leaves_nothing(service: Service, helm: list[str], tmp_path: Path) -> None:
    """Everything that needs no operator is switched on, and a release has been begun; the fixture looks afterwards."""
    values = tmp_path / "everything.json"
    values.write_text(json.dumps(EVERYTHING))
    run([*helm, "--values", str(values), "--set", "redis.mode=bundled"])
    api, now = KubernetesApi.connect(), datetime.now(UTC)
    model = ModelVersion("m", "2", "s3://heimdall-models/better/model.onnx", service.digests["better"])
    release = Release("r", NAMESPACE, RELEASE, model, None, Policy(), Stage.PREFLIGHT, 0, now, now)
    with Lease(api, NAMESPACE, RELEASE).held():
        Record(api, InferenceService(api, NAMESPACE, RELEASE)).save(release, now)
    there = left_of_release(service.cluster)
    for kind in ("deployment.apps", "cronjob.batch", "networkpolicy", "validatingadmissionpolicybinding", *MEMORY):
        assert kind in there, there


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
