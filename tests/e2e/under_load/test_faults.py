"""What dies under load: pods, processes, the cache, the storage. What a client sees of it is counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(600)]

KILLER_NAMESPACE = "heimdall-e2e-node"


FORCED = ("--force", "--grace-period=0")
"""The API server forgets the pod at once, and the kubelet kills it without the time to finish what it began."""


def delete_pods(service: Service, selector: str) -> None:
    """Delete what the selector finds, which is something, without waiting for its end."""
    deleted = service.cluster.kubectl("delete", "pods", f"--selector={selector}", "--wait=false", "--output=name")
    assert deleted.startswith("pod/")


def _only_live(service: Service, component: str) -> bool:
    found = service.cluster.find("Pod", f"serving.kserve.io/inferenceservice=localization,component={component}")
    return len(found) == len(service.pods(component))


BOTH_MODES = pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)


@BOTH_MODES
def test_a_deleted_predictor_fails_no_request(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """With one replica: requests wait for the next pod, and each is answered."""
    _delete_under_load(service, load, "predictor", record_property)


def test_a_deleted_transformer_fails_no_request(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """The same for the pod that clients' requests reach first."""
    _delete_under_load(service, load, "transformer", record_property)


def _delete_under_load(
    service: Service, load: Callable[..., Load], component: str, record_property: Callable[[str, object], None]
) -> None:
    # Pods of earlier revisions hold the node's CPU until they end, and what replaces the deleted one would wait for it.
    service.cluster.wait_until(lambda: _only_live(service, component), 240, "earlier revisions have no pods any more")
    with load() as sent:
        time.sleep(3.0)
        delete_pods(service, f"component={component}")
        time.sleep(15.0)
    service.cluster.wait_until(service.ready, 60, "the service is ready again")
    record_property(f"{component} deleted", sent.summary())
    assert not sent.failed


@BOTH_MODES
def test_a_predictor_deleted_by_force_fails_no_request(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """The only replica, without its grace period: what was in flight is asked again once there is another one."""
    service.cluster.wait_until(lambda: _only_live(service, "predictor"), 240, "earlier revisions have no pods any more")
    service.cluster.wait_until(lambda: len(service.pods("predictor")) == 1, 240, "there is one predictor")
    _delete_one_under_load(service, load, record_property, "predictor, one replica", FORCED)


@BOTH_MODES
@pytest.mark.usefixtures("two_predictors")
@pytest.mark.parametrize("options", [(), FORCED], ids=["graceful", "forced"])
def test_a_deleted_predictor_of_two_fails_no_request(
    service: Service,
    load: Callable[..., Load],
    record_property: Callable[[str, object], None],
    options: tuple[str, ...],
) -> None:
    """One of two replicas: the other one answers."""
    _delete_one_under_load(service, load, record_property, "predictor, two replicas", options)


def _delete_one_under_load(
    service: Service,
    load: Callable[..., Load],
    record_property: Callable[[str, object], None],
    what: str,
    options: tuple[str, ...],
) -> None:
    victim = service.pods("predictor")[0]["metadata"]["name"]
    with load() as sent:
        time.sleep(3.0)
        service.cluster.kubectl("delete", "pod", victim, "--wait=false", *options)
        time.sleep(15.0)
    service.cluster.wait_until(service.ready, 60, "the service is ready again")
    record_property(f"{what}, deleted {' '.join(options)}".rstrip(), f"{sent.summary()} {dict(sent.failed)}")
    assert not sent.failed


@BOTH_MODES
def test_the_cache_may_go(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """Without the cache everything is computed."""
    _lose_under_load(service, load, "redis", record_property)


@BOTH_MODES
def test_the_storage_may_go(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """Without the storage nothing new starts, and what runs goes on."""
    _lose_under_load(service, load, "minio", record_property)
    service.upload()  # the quickstart's MinIO keeps nothing


def _lose_under_load(
    service: Service, load: Callable[..., Load], component: str, record_property: Callable[[str, object], None]
) -> None:
    with load(cache=True) as sent:
        time.sleep(3.0)
        delete_pods(service, f"app.kubernetes.io/component={component}")
        time.sleep(10.0)
    record_property(f"{component} deleted", sent.summary())
    service.cluster.kubectl("rollout", "status", f"deployment/localization-{component}", "--timeout=60s")
    assert not sent.failed


@pytest.fixture
def two_predictors(service: Service) -> Iterator[None]:
    """Two replicas of the predictor for one test."""
    service.set_predictor({"minReplicas": 2})
    service.cluster.wait_until(lambda: service.newest_is_live() and len(service.pods("predictor")) >= 2, 90, "two pods")
    service.cluster.wait_until(lambda: all(_is_ready(pod) for pod in service.pods("predictor")), 60, "both are ready")
    yield
    service.set_predictor({})
    service.cluster.wait_until(service.newest_is_live, 90, "the fields are given back")


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def _restarts(service: Service, pod: str) -> int:
    statuses = service.cluster.get("Pod", pod)["status"]["containerStatuses"]
    return sum(one["restartCount"] for one in statuses if one["name"] == "kserve-container")


@pytest.fixture(scope="module")
def kill_process(service: Service) -> Iterator[Callable[[dict[str, Any]], float]]:
    """Sends SIGKILL to the predictor's process of a pod, and returns when it was surely done, by the monotonic clock.

    A container's first process is immune to signals of its own process namespace, so this takes a pod on the node's.
    """
    service.cluster.kubectl("create", "namespace", KILLER_NAMESPACE)
    image = service.cluster.find("Pod", "app.kubernetes.io/component=redis")[0]["spec"]["containers"][0]["image"]
    spec = {
        "hostPID": True,
        "containers": [
            {
                "name": "killer",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "600"],
                "securityContext": {"privileged": True, "runAsUser": 0},
            }
        ],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "killer"}, "spec": spec}
    service.cluster.apply(pod, namespace=KILLER_NAMESPACE)
    service.cluster.kubectl("wait", "--for=condition=Ready", "pod/killer", "-n", KILLER_NAMESPACE, "--timeout=60s")

    def kill(victim: dict[str, Any]) -> float:
        container = next(c for c in victim["status"]["containerStatuses"] if c["name"] == "kserve-container")
        container_id = container["containerID"].rpartition("/")[2]
        script = f"for p in /proc/[0-9]*; do grep -qs {container_id} $p/cgroup && kill -9 ${{p#/proc/}}; done; true"
        service.cluster.kubectl("exec", "killer", "-n", KILLER_NAMESPACE, "--", "sh", "-c", script)
        killed_s = time.monotonic()
        name = victim["metadata"]["name"]
        service.cluster.wait_until(
            lambda: _restarts(service, name) > container["restartCount"], 30, f"{name} was killed"
        )
        return killed_s

    yield kill
    service.cluster.kubectl("delete", "namespace", KILLER_NAMESPACE)


@BOTH_MODES
@pytest.mark.usefixtures("two_predictors")
def test_a_killed_process_of_two_fails_no_request(
    service: Service,
    load: Callable[..., Load],
    kill_process: Callable[[dict[str, Any]], float],
    record_property: Callable[[str, object], None],
) -> None:
    """SIGKILL of one of two predictors: the transformer asks again, so the client notices nothing."""
    with load() as sent:
        time.sleep(3.0)
        kill_process(service.pods("predictor")[0])
        time.sleep(12.0)
    record_property("SIGKILL, two replicas", sent.summary())
    assert not sent.failed


@BOTH_MODES
def test_a_killed_only_process_fails_only_what_is_in_flight(
    service: Service,
    load: Callable[..., Load],
    kill_process: Callable[[dict[str, Any]], float],
    record_property: Callable[[str, object], None],
) -> None:
    """SIGKILL of the only predictor: what it was at may be refused with 503 and when to come again; later ones wait."""
    with load() as sent:
        time.sleep(3.0)
        killed_s = kill_process(service.pods("predictor")[0])
        time.sleep(20.0)
    record_property("SIGKILL, one replica", f"{sent.summary()} {dict(sent.failed)}")
    assert all(one.status in {200, 503} for one in sent.sent)
    assert all(one.retry_after and one.start_s < killed_s for one in sent.sent if one.status == 503)
    assert sent.sent[-1].status == 200
