"""What happens to a predictor's process and packets on its node, under load; what a client sees of it is counted."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Sent, Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(600)]

NAMESPACE = "heimdall-e2e-chaos"
FAULT_S, SETTLED_S = 15.0, 5.0
LOST_PERCENT = 2


@pytest.fixture(scope="module")
def on_node(service: Service) -> Iterator[Callable[[str], str]]:
    """Runs a shell script among the node's processes, in its network, with its own programs; what it prints."""
    cluster = service.cluster
    cluster.kubectl("create", "namespace", NAMESPACE)
    image = cluster.find("Pod", "app.kubernetes.io/component=redis")[0]["spec"]["containers"][0]["image"]
    container = {
        "name": "node",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "3600"],
        "securityContext": {"privileged": True, "runAsUser": 0},
    }
    spec = {"hostPID": True, "hostNetwork": True, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": spec}
    cluster.apply(pod, namespace=NAMESPACE)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/node", "-n", NAMESPACE, "--timeout=60s")
    yield lambda script: cluster.kubectl("exec", "node", "-n", NAMESPACE, "--", "sh", "-c", script)
    cluster.kubectl("delete", "namespace", NAMESPACE)


@pytest.fixture
def two_pods(service: Service) -> Iterator[list[dict[str, Any]]]:
    """Two ready pods of the predictor for one test."""
    service.set_predictor({"minReplicas": 2})
    service.cluster.wait_until(lambda: service.newest_is_live() and _ready(service) >= 2, 120, "two predictors")
    yield service.pods("predictor")
    service.set_predictor({})
    service.cluster.wait_until(service.newest_is_live, 90, "the fields are given back")


def _ready(service: Service) -> int:
    conditions = [pod["status"].get("conditions", []) for pod in service.pods("predictor")]
    return sum(any(one["type"] == "Ready" and one["status"] == "True" for one in found) for found in conditions)


def _statuses(sent: list[Sent], begin_s: float, end_s: float) -> dict[int, int]:
    return dict(Counter(one.status for one in sent if begin_s <= one.start_s < end_s))


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_a_process_of_two_that_stands_still(
    load: Callable[..., Load],
    on_node: Callable[[str], str],
    two_pods: list[dict[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    """SIGSTOP of one of two predictors: everybody is answered or told in time, and nobody fails once it goes on."""
    container = next(c for c in two_pods[0]["status"]["containerStatuses"] if c["name"] == "kserve-container")
    container_id = container["containerID"].rpartition("/")[2]
    signal = (
        "for p in /proc/[0-9]*; do grep -qs {} $p/cgroup && kill -{} ${{p#/proc/}} && sleep 0.2"
        " && grep ^State $p/status; done; true"
    )
    with load() as sent:
        time.sleep(5.0)
        begin_s = time.monotonic()
        stopped = on_node(signal.format(container_id, "STOP"))
        time.sleep(FAULT_S)
        on_node(signal.format(container_id, "CONT"))
        end_s = time.monotonic()
        time.sleep(3 * SETTLED_S)
    told = _statuses(sent.sent, begin_s, end_s)
    record_property("SIGSTOP, one of two", f"{sent.summary()}; while it stood still {told}; {dict(sent.failed)}")
    assert "T (stopped)" in stopped
    assert set(_statuses(sent.sent, 0.0, begin_s)) == {200}
    assert set(told) <= {200, 503, 504}
    assert set(_statuses(sent.sent, end_s + SETTLED_S, float("inf"))) == {200}


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_packets_that_are_lost(
    service: Service,
    load: Callable[..., Load],
    on_node: Callable[[str], str],
    record_property: Callable[[str, object], None],
) -> None:
    """Of a hundred packets to and from predictors two are lost on the node: TCP bears it, no request fails."""
    addresses = ", ".join(pod["status"]["podIP"] for pod in service.pods("predictor"))
    node = "nsenter --target 1 --mount --net nft"
    fate = f"numgen random mod 100 '<' {LOST_PERCENT} counter drop"
    rules = "".join(
        f"{node} add rule ip heimdall loss ip {side} {{ {addresses} }} {fate};" for side in ("saddr", "daddr")
    )
    chain = f"{node} 'add table ip heimdall; add chain ip heimdall loss {{ type filter hook forward priority 0; }}';"
    outgoing = f"{node} 'add chain ip heimdall out {{ type filter hook output priority 0; }}';"
    with load() as sent:
        time.sleep(5.0)
        try:
            on_node(f"set -e; {chain} {outgoing} {rules} {rules.replace('heimdall loss', 'heimdall out')}")
            time.sleep(FAULT_S)
            lost = sum(map(int, re.findall(r"counter packets (\d+)", on_node(f"{node} list table ip heimdall"))))
        finally:
            on_node(f"{node} delete table ip heimdall; true")
        time.sleep(SETTLED_S)
    record_property(f"{LOST_PERCENT} % of packets lost", f"{lost} packets; {sent.summary()}")
    assert lost > 0
    assert not sent.failed
