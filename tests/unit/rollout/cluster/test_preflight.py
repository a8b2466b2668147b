"""Pre-flight on a cluster whose Job ends as a test says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from rollout import preflight_run
from rollout.arguments import parse
from rollout.errors import NothingNewError, RefusedError, RejectedError
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
    probe_job = ProbeJob("heimdall/rollout:1", "s3://probe", [{"name": "A", "value": "b"}], "radio_model")
    return Checks(cluster, service, record, None, probe_job, sleep=clock.sleep)  # type: ignore[arg-type]  # what is used


def pods_are(cluster: FakeCluster, *pods: dict[str, Any]) -> None:
    """The pods of the Job that is made next, which the simulated server gives the uid u."""
    cluster.objects[f"{PODS}?batch.kubernetes.io/controller-uid=u"] = {"items": list(pods)}


def job_ends(cluster: FakeCluster, log: str = "", **terminated: dict[str, Any]) -> None:
    """The Job's pod, whose containers have ended so; one of an earlier Job of that name is still terminating."""
    statuses = [{"name": name.replace("_", "-"), "state": {"terminated": how}} for name, how in terminated.items()]
    pod = {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses or [{"name": "probe", "state": {}}]}}
    pods_are(cluster, pod)
    cluster.objects[f"{PODS}/p/log"] = {"text": log}
    killed = {"name": "kserve-container", "state": {"terminated": {"exitCode": 143}}}
    earlier = {"metadata": {"name": "earlier"}, "status": {"containerStatuses": [killed]}}
    cluster.objects[f"{PODS}?batch.kubernetes.io/job-name=loc-preflight"] = {"items": [earlier]}


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
    given = parse(probe["args"], {})
    assert (given.champion_url, given.champion_version) == ("http://loc.radio.svc", "1")
    assert (given.model_name, given.policy) == ("radio_model", release().policy)


@pytest.mark.parametrize(
    ("log", "terminated", "reason"),
    [
        (PASSED.replace("pass", "fail"), {"probe": {"exitCode": 1}}, "says fail: fine"),
        ("Traceback", {"probe": {"exitCode": 1}}, "without an answer: Traceback"),
        ("", {"probe": {"exitCode": 1}}, "it said nothing"),
        ("", {"kserve_container": {"exitCode": 139}}, "says fail: container kserve-container ended with exit code 139"),
        ("", {"kserve_container": {"exitCode": 137, "reason": "OOMKilled"}}, "says fail: .* exit code 137: OOMKilled"),
        (PASSED, {"kserve_container": {"exitCode": 132}, "probe": {"exitCode": 0}}, "says fail: .* exit code 132"),
        ("", {"kserve_container": {"exitCode": 137}}, "says error: container kserve-container ended .* 137"),
        ("", {"kserve_container": {"exitCode": 143}}, "says error: container kserve-container ended .* 143"),
        ("", {"transformer_container": {"exitCode": 1}}, "says error: container transformer-container ended .* 1"),
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
    rejected = reason.startswith("says fail")
    assert isinstance(refused.value, RejectedError) == rejected
    assert f"{JOBS}/loc-preflight" not in cluster.objects
    crashed = rejected and "probe" not in reason and "fine" not in reason
    assert cluster.log.count(("create", f"{JOBS}/loc-preflight")) == (2 if crashed else 1)


def test_one_crash_may_be_the_nodes_fault(
    cluster: FakeCluster, checks: Checks, release: Callable[..., Release], clock: Clock
) -> None:
    """The Job is run again, and its second answer counts."""
    job_ends(cluster, kserve_container={"exitCode": 139})
    told: list[str] = []

    def second(sentence: str) -> None:
        told.append(sentence)
        job_ends(cluster, PASSED, probe={"exitCode": 0})

    again = replace(checks, waiting=second, sleep=clock.sleep)
    assert "fine" in again(release())
    assert told == ["pre-flight: once more, because container kserve-container ended with exit code 139: "]


def test_what_a_pod_waits_for_in_vain(cluster: FakeCluster, checks: Checks, release: Callable[..., Release]) -> None:
    """An image that cannot be pulled, and a pod that was evicted, are told at once."""
    waiting = {"name": "probe", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}}
    pods_are(cluster, {"metadata": {"name": "p"}, "status": {"containerStatuses": [waiting]}})
    with pytest.raises(RefusedError, match=r"probe cannot start, ImagePullBackOff: no such tag"):
        checks(release())
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
    pods_are(cluster, {"metadata": {"name": "p"}, "status": evicted})
    with pytest.raises(RefusedError, match=r"the pod failed, Evicted: the node was low on memory"):
        checks(release())


def test_a_job_without_a_pod(
    cluster: FakeCluster, checks: Checks, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by an admission policy or a quota, or deleted: nobody waits for the Job's deadline."""
    monkeypatch.setattr(preflight_run, "_POD_WITHIN_S", 0.05)
    with pytest.raises(RefusedError, match=r"no pod within .* involvedObject.name=loc-preflight"):
        checks(release())
    job_ends(cluster)
    gone = replace(checks, waiting=lambda _: pods_are(cluster))
    with pytest.raises(RefusedError, match="removed by somebody else"):
        gone(release())


def test_an_earlier_job_that_stays(
    cluster: FakeCluster, checks: Checks, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer may keep it; that is not waited for without an end."""
    monkeypatch.setattr(preflight_run, "_POD_WITHIN_S", 0.05)
    monkeypatch.setattr(cluster, "delete", lambda _: None)
    cluster.objects[f"{JOBS}/loc-preflight"] = {"metadata": {}}
    with pytest.raises(RefusedError, match="still there after"):
        checks(release())


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
    """With it, it passes; forgetting that it was rejected is not the checks' business."""
    record.reject(challenger, "slow")
    quick = replace(checks, probe_job=None)
    with pytest.raises(NothingNewError, match=r"was rejected, m version 2: slow; --again"):
        quick(release())
    assert replace(quick, again=True)(release())
    assert challenger.model_digest in record.rejected()


def test_the_model_that_serves_is_no_challenger(checks: Checks, good: ModelVersion) -> None:
    """Registered twice, a rollback of the second version would reject the digest of the first."""
    with pytest.raises(NothingNewError, match="m version 3 is the model that serves already"):
        checks.may_begin(replace(good, version="3"))


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


def test_what_clients_send_stays(checks: Checks, release: Callable[..., Release]) -> None:
    """Another normalisation is every training's; other receivers need other clients."""
    live = '{"samples":4480,"receivers":[1],"features":{"mean":1}}'
    quick = replace(checks, probe_job=None, artifacts=FakeArtifacts(good=live, next=live.replace("mean", "std")))
    assert "the same as before" in quick(release())
    other = replace(quick, artifacts=FakeArtifacts(good=live, next=live.replace("[1]", "[2]").replace("80", "81")))
    with pytest.raises(RefusedError, match=r"has other receivers, samples than the live one"):
        other(release())
    none = replace(quick, artifacts=FakeArtifacts(good="", next=live))
    with pytest.raises(RefusedError, match="one of both has none"):
        none(release())


def test_a_service_whose_arms_cannot_be_told_apart(
    cluster: FakeCluster, checks: Checks, challenger: ModelVersion
) -> None:
    """Collocated, nobody counts calls by arm: the release would end without a verdict after hours."""
    cluster.objects[ISVC]["spec"].pop("transformer")
    with pytest.raises(RefusedError, match=r"mode collocated.* by hand .*docs/canary.md"):
        checks.may_begin(challenger)


def test_a_service_that_speaks_grpc_alone(
    checks: Checks, service: InferenceService, challenger: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe set is sent by HTTP; a transformer that has no Knative service yet cannot be asked either."""
    predictor, _ = service.templates()
    grpc = {"spec": {"containers": [{"ports": [{"name": "h2c", "containerPort": 9081}]}]}}
    monkeypatch.setattr(type(service), "templates", lambda _: (predictor, grpc))
    with pytest.raises(RefusedError, match=r"protocol: grpc.* by hand"):
        checks.may_begin(challenger)
    monkeypatch.setattr(type(service), "templates", lambda _: (predictor, None))
    with pytest.raises(RefusedError, match="no Knative service of its transformer"):
        checks.may_begin(challenger)
