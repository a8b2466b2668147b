"""Pre-flight on a cluster whose Job ends as a test says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from rollout.errors import RefusedError, RejectedError
from rollout.preflight import Checks, ProbeJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock, FakeCluster

    from rollout.inference_service import InferenceService
    from rollout.record import Record
    from rollout.release import ModelVersion, Release

JOBS = "/apis/batch/v1/namespaces/radio/jobs"
PODS = "/api/v1/namespaces/radio/pods"
ISVC = "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices/loc"
PASSED = '{"type": "result", "outcome": "pass", "sentence": "fine"}'


@pytest.fixture
def checks(cluster: FakeCluster, service: InferenceService, record: Record, clock: Clock) -> Checks:
    """With a Job, without models to read."""
    probe_job = ProbeJob("heimdall/rollout:1", "s3://probe", [{"name": "A", "value": "b"}])
    return Checks(cluster, service, record, None, probe_job, sleep=clock.sleep)  # type: ignore[arg-type]  # what is used


def job_ends(cluster: FakeCluster, log: str = "", **terminated: dict[str, Any]) -> None:
    """The Job's pod, whose containers have ended so."""
    statuses = [{"name": name.replace("_", "-"), "state": {"terminated": how}} for name, how in terminated.items()]
    pod = {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses or [{"name": "probe", "state": {}}]}}
    cluster.objects[f"{PODS}?batch.kubernetes.io/job-name=loc-preflight"] = {"items": [pod]}
    cluster.objects[f"{PODS}/p/log"] = {"text": log}


def test_what_passes(cluster: FakeCluster, checks: Checks, release: Callable[..., Release]) -> None:
    """The Job is made of the service's own templates, and gone afterwards."""
    job_ends(cluster, f"warming up\n{PASSED}\n", probe={"exitCode": 0})
    made: list[dict[str, Any]] = []
    create = cluster.create
    cluster.create = lambda path, body: made.append(dict(body)) or create(path, body)  # type: ignore[method-assign,func-returns-value,misc,assignment]  # listens
    assert "fine" in checks(release())
    assert f"{JOBS}/loc-preflight" not in cluster.objects
    pod = made[0]["spec"]["template"]
    predictor, transformer, probe = pod["spec"]["containers"]
    assert pod["metadata"]["annotations"] == {
        "internal.serving.kserve.io/storage-initializer-sourceuri": "s3://models/next"
    }
    assert pod["spec"]["serviceAccountName"] == "loc-predictor"
    assert predictor["env"] == [
        {"name": "HEIMDALL_MODEL_VERSION", "value": "2"},
        {"name": "HEIMDALL_MODEL_DIGEST", "value": release().challenger.model_digest},
    ]
    assert predictor["args"][-1] == "--http_port=8081"
    assert "ports" not in predictor
    assert "--predictor_host=localhost:8081" in transformer["args"]
    assert transformer["env"] == []
    assert probe["args"][:5] == ["probe", "--probe-set", "s3://probe", "--url", "http://127.0.0.1:8080"]
    assert probe["args"][probe["args"].index("--champion-url") + 1] == "http://loc.radio.svc"


@pytest.mark.parametrize(
    ("log", "terminated", "reason"),
    [
        (PASSED.replace("pass", "fail"), {"probe": {"exitCode": 1}}, "says fail: fine"),
        ("Traceback", {"probe": {"exitCode": 1}}, "without an answer: Traceback"),
        ("", {"probe": {"exitCode": 1}}, "it said nothing"),
        ("", {"kserve_container": {"exitCode": 139, "reason": "Error"}}, "kserve-container ended with exit code 139"),
        ("", {"storage_initializer": {"exitCode": 1, "message": "403"}}, "storage-initializer ended .*: 403"),
    ],
)
def test_what_does_not_pass(
    cluster: FakeCluster,
    checks: Checks,
    release: Callable[..., Release],
    log: str,
    terminated: dict[str, Any],
    reason: str,
) -> None:
    """A verdict, a crash of the model, a download that fails, or a probe that breaks: the reason is told."""
    job_ends(cluster, log, **terminated)
    with pytest.raises(RefusedError, match=reason) as refused:
        checks(release())
    assert isinstance(refused.value, RejectedError) == reason.startswith("says fail")
    assert f"{JOBS}/loc-preflight" not in cluster.objects


def test_a_job_that_does_not_end(cluster: FakeCluster, checks: Checks, release: Callable[..., Release]) -> None:
    """Its deadline is ours as well; one that is left of an interrupted run is removed first."""
    cluster.objects[f"{JOBS}/loc-preflight"] = {"metadata": {}}
    job_ends(cluster, storage_initializer={"exitCode": 0})
    assert checks.probe_job is not None
    waited: list[str] = []
    impatient = replace(checks, probe_job=replace(checks.probe_job, deadline_s=0.05), waiting=waited.append)
    with pytest.raises(RefusedError, match="did not end within"):
        impatient(release())
    assert waited


def test_without_the_job(checks: Checks, release: Callable[..., Release], clock: Clock) -> None:
    """It can be left out, which is told."""
    assert "was left out" in replace(checks, probe_job=None)(release())
    assert clock.slept == []


def test_a_rejected_digest_needs_again(
    checks: Checks, record: Record, release: Callable[..., Release], challenger: ModelVersion
) -> None:
    """With it, the digest is forgiven, so that the admission policy lets it through."""
    record.reject(challenger, "slow")
    quick = replace(checks, probe_job=None)
    with pytest.raises(RefusedError, match=r"was rejected, m version 2: slow; --again"):
        quick(release())
    assert replace(quick, again=True)(release())
    assert record.rejected() == {}


def test_a_service_that_is_not_settled(
    cluster: FakeCluster, checks: Checks, service: InferenceService, challenger: ModelVersion, good: ModelVersion
) -> None:
    """Another canary, or a revision that does not run, has to be dealt with first."""
    service.apply(challenger, 5)
    service.observe()
    with pytest.raises(RefusedError, match="its traffic is"):
        checks.may_begin(good)
    cluster.broken["s3://models/bad"] = "no"
    service.apply(replace(challenger, storage_uri="s3://models/bad"), 5)
    with pytest.raises(RefusedError, match="ended 3 times"):
        checks.may_begin(good)


@dataclass(frozen=True)
class FakeFiles:
    """A model with this contract."""

    contract: str


class FakeArtifacts:
    """The contract of each model."""

    def __init__(self, **contracts: str) -> None:
        self._contracts = contracts

    def inspect(self, uri: str, version: str) -> FakeFiles:  # noqa: ARG002 - the interface
        """Its files."""
        return FakeFiles(self._contracts[uri.rpartition("/")[2]])


def test_what_clients_send_stays_with_separate_components(
    cluster: FakeCluster, checks: Checks, release: Callable[..., Release]
) -> None:
    """Another normalisation is every training's; other receivers need both components in one pod."""
    live = '{"samples":4480,"receivers":[1],"features":{"mean":1}}'
    quick = replace(checks, probe_job=None, artifacts=FakeArtifacts(good=live, next=live.replace("mean", "std")))
    assert "the same as before" in quick(release())
    other = replace(quick, artifacts=FakeArtifacts(good=live, next=live.replace("[1]", "[2]").replace("80", "81")))
    with pytest.raises(RefusedError, match=r"has other receivers, samples than the live one"):
        other(release())
    none = replace(quick, artifacts=FakeArtifacts(good="", next=live))
    with pytest.raises(RefusedError, match="one of both has none"):
        none(release())
    cluster.objects[ISVC]["spec"].pop("transformer")
    assert "one pod" in other(release())
