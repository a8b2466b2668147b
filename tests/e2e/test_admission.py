"""The chart's admission policies on a real API server: edits, upgrades and plain re-applies, refused or let through."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from rollout.errors import DeniedError
from rollout.inference_service import InferenceService
from rollout.kubernetes_api import KubernetesApi
from rollout.record import Record
from rollout.release import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMESPACE, RELEASE = "heimdall-e2e-admission", "watched"
GOOD, BAD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
VALUES = (
    *("storage.s3.accessKeyId=a", "storage.s3.secretAccessKey=b", "redis.mode=none"),
    *("images.predictor.tag=none", "images.transformer.tag=none"),
    *("predictor.minReplicas=0", "transformer.minReplicas=0", "rollout.admission.enabled=true"),
    *(f"model.digest={GOOD}", "model.storageUri=s3://heimdall-models/good/model.onnx"),
)
ARRIVES_S = 20.0
"""How long a policy or a ConfigMap may take until every request meets it."""


@pytest.fixture(scope="module")
def upgrade(helm_program: str, cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Callable[..., str]]:
    """`helm upgrade --install` with further values; what it says if it is refused. No pod has to run for this."""
    chart = str(pytestconfig.rootpath / "charts" / "heimdall")
    base = [helm_program, "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace"]

    def run(*values: str) -> str:
        command = base + [word for value in (*VALUES, *values) for word in ("--set", value)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.stderr if done.returncode else ""

    assert not run()
    yield run
    uninstall = [helm_program, "uninstall", RELEASE, "--namespace", NAMESPACE]
    subprocess.run(uninstall, check=False, timeout=120)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def service(upgrade: Callable[..., str]) -> InferenceService:  # noqa: ARG001 - installs it
    """The service that is watched."""
    return InferenceService(KubernetesApi.connect(), NAMESPACE, RELEASE)


def version(name: str, digest: str) -> ModelVersion:
    """A version that lies at its name."""
    return ModelVersion("m", "2", f"s3://heimdall-models/{name}/model.onnx", digest)


def edit(patch: str, kind: str = "merge", *words: str) -> str:
    """What `kubectl patch` says, good or bad."""
    command = ["kubectl", "patch", "inferenceservice", RELEASE, "--namespace", NAMESPACE, *words]
    command += [f"--type={kind}", "--patch", patch]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def refusal(patch: str, kind: str = "merge") -> str:
    """What is said to an edit that is to be refused; it is tried without effect until the policies have arrived."""
    ends_s = time.monotonic() + ARRIVES_S
    while "denied request" not in (said := edit(patch, kind, "--dry-run=server")):
        assert time.monotonic() < ends_s, said
        time.sleep(0.5)
    return edit(patch, kind)


def test_a_percentage_is_never_missing(service: InferenceService, upgrade: Callable[..., str]) -> None:
    """Removing it is refused, as is a template without it; with it, templates and labels may change."""
    removed = '[{"op":"remove","path":"/spec/predictor/canaryTrafficPercent"}]'
    assert "canaryTrafficPercent is not set" in refusal(removed, "json")
    assert "patched" in edit('{"spec":{"predictor":{"timeout":50}}}')
    assert "patched" in edit('{"metadata":{"labels":{"touched":"yes"}}}')
    assert upgrade("predictor.timeoutSeconds=55") == ""
    assert service.observe().percent == 100


def test_another_model_needs_a_share(service: InferenceService, upgrade: Callable[..., str]) -> None:
    """At 100 % it would get everything at once; an edit and an upgrade from values are refused alike."""
    other = "s3://heimdall-models/other/model.onnx"
    model = f'"model":{{"storageUri":"{other}"}}'
    assert "would get everything at once" in edit(f'{{"spec":{{"predictor":{{{model}}}}}}}')
    assert "would get everything at once" in upgrade("model.owner=values", f"model.storageUri={other}")
    assert service.observe().storage_uri.endswith("/good/model.onnx")
    assert upgrade("model.owner=values", f"model.storageUri={other}", "canary.percent=10") == ""
    assert upgrade("model.owner=values", f"model.storageUri={other}", "canary.percent=100") == ""
    service.apply(version("good", GOOD), 0)
    service.apply(version("good", GOOD), 100)


def test_a_rejected_digest_stays_out(cluster: Cluster, service: InferenceService, upgrade: Callable[..., str]) -> None:
    """By apply, by upgrade, by a whole manifest put back, and without its digest; until it is forgiven."""
    record, bad = Record(KubernetesApi.connect(), service), version("bad", BAD)
    service.apply(bad, 5)
    service.apply(version("good", GOOD), 0)
    service.apply(version("good", GOOD), 100)
    record.reject(bad, "overconfident")
    env = f'"env":[{{"name":"HEIMDALL_MODEL_DIGEST","value":"{BAD}"}}]'
    edited = f'{{"spec":{{"predictor":{{"canaryTrafficPercent":5,"model":{{{env}}}}}}}}}'
    assert "was rolled back before" in refusal(edited)
    with pytest.raises(DeniedError, match="was rolled back before"):
        service.apply(bad, 5)
    values = ("model.owner=values", f"model.digest={BAD}", f"model.storageUri={bad.storage_uri}", "canary.percent=10")
    assert "was rolled back before" in upgrade(*values)
    assert "was rolled back before" in _reapplied(cluster, bad)
    with pytest.raises(DeniedError, match="changes without HEIMDALL_MODEL_DIGEST"):
        service.apply(version("bad", ""), 5)
    assert service.observe().model_digest == GOOD
    service.apply(version("next", "sha256:" + "c" * 64), 5)
    record.forgive(BAD)
    ends_s = time.monotonic() + ARRIVES_S
    while True:
        try:
            service.apply(bad, 5)
            break
        except DeniedError:
            assert time.monotonic() < ends_s
            time.sleep(0.5)
    assert service.observe().model_digest == BAD


def test_a_rollback_returns_to_a_model_without_a_digest(service: InferenceService) -> None:
    """Installed without one: at 0 % it is let through, however many were rejected before; with a share it is not."""
    record, unnamed = Record(KubernetesApi.connect(), service), version("good", "")
    record.forgive(BAD)
    service.apply(unnamed, 0)
    service.apply(unnamed, 100)
    for number in ("1", "2"):
        bad = version(number, "sha256:" + number * 64)
        for model, percent in ((bad, 5), (bad, 0), (unnamed, 0), (unnamed, 100)):
            service.apply(model, percent)
        record.reject(bad, "slow")
    with pytest.raises(DeniedError, match="changes without HEIMDALL_MODEL_DIGEST"):
        service.apply(version("other", ""), 5)
    assert service.observe().names(unnamed)


def _reapplied(cluster: Cluster, model: ModelVersion) -> str:
    """What `kubectl replace` says to the whole manifest with this model."""
    document = cluster.get("InferenceService", RELEASE, NAMESPACE)
    for name in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
        document["metadata"].pop(name, None)
    document.pop("status", None)
    predictor = document["spec"]["predictor"]
    predictor["canaryTrafficPercent"] = 10
    predictor["model"]["storageUri"] = model.storage_uri
    predictor["model"]["env"] = [{"name": "HEIMDALL_MODEL_DIGEST", "value": model.model_digest}]
    command = ["kubectl", "replace", "--filename", "-"]
    done = subprocess.run(
        command, input=yaml.safe_dump(document), capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr
