from __future__ import annotations

from typing import Any

import pytest

from rollout.pod_failure import pod_failure


def pod(state: dict[str, Any], *, restarts: int = 0, last: dict[str, Any] | None = None, init: bool = False) -> Any:  # noqa: ANN401 - JSON
    """A pod with one container."""
    status = {"name": "c", "restartCount": restarts, "state": state, "lastState": {"terminated": last or {}}}
    return {"metadata": {}, "status": {"initContainerStatuses" if init else "containerStatuses": [status]}}


CRASH = {"waiting": {"reason": "CrashLoopBackOff"}}
ENDED = {"exitCode": 1, "message": "Traceback\n  line\nValueError: no model"}


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (pod({"running": {}}), ""),
        (pod({"waiting": {"reason": "ContainerCreating"}}), ""),
        (pod({"waiting": {"reason": "ErrImagePull"}}), ""),
        (pod(CRASH, restarts=1, last=ENDED), ""),
        (pod(CRASH, restarts=2, last=ENDED), "container c ended 2 times, last with exit code 1: ValueError: no model"),
        (
            pod(CRASH, restarts=4, last={"exitCode": 139, "reason": "Error"}),
            "ended 4 times, last with exit code 139: Error",
        ),
        (pod(CRASH, restarts=2, init=True), "container c ended 2 times, last with exit code ?"),
        (
            pod({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
            "container c cannot start, ImagePullBackOff: not found",
        ),
        (pod({"waiting": {"reason": "InvalidImageName"}}), "container c cannot start, InvalidImageName"),
    ],
)
def test_only_what_waiting_does_not_mend_is_a_failure(one: dict[str, Any], sentence: str) -> None:
    """One crash may be the node's fault, a first failed pull the network's; a traceback's last line is told."""
    assert pod_failure([one]).endswith(sentence)
    assert bool(pod_failure([one])) == bool(sentence)


def test_pods_that_are_going_do_not_count() -> None:
    """Ending on request is no crash; the first failing pod of several is told."""
    crashed = pod(CRASH, restarts=2, last=ENDED)
    gone = crashed | {"metadata": {"deletionTimestamp": "now"}}
    assert pod_failure([gone]) == ""
    assert pod_failure([gone, {"metadata": {}}, crashed]).startswith("container c ended 2 times")
    assert pod_failure([]) == ""
