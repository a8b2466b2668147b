"""Running the pre-flight Job: made, watched to its end, and removed.

What belongs here: the cluster's side of one run, and how long it is waited for. What does not: the Job's document and
what its pod's states mean (`preflight_job`), and whether a release may go on (`preflight`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.errors import RefusedError
from rollout.preflight_job import PROBE, Found, answered, broken, read_log
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.kubernetes_api import KubernetesApi
    from rollout.preflight_job import Plan

_POLL_S = 1.0
_POD_WITHIN_S = 60.0
"""For the Job's pod to be made, and for an earlier Job to be gone: either is a matter of a second or two."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs Jobs, one after the other.

    Attributes:
        api: Of the cluster.
        waiting: Told what is waited for.
        sleep: Waits.
    """

    api: KubernetesApi
    waiting: Callable[[str], None]
    sleep: Callable[[float], None]

    def __call__(self, plan: Plan, document: Mapping[str, Any]) -> Found:
        """What came of the Job; raises `RefusedError` while an earlier one of its name cannot be removed."""
        collection = f"/apis/batch/v1/namespaces/{plan.namespace}/jobs"
        self._removed(f"{collection}/{plan.name}")
        created = self.api.create(collection, document)
        try:
            return self._watched(plan, str(created["metadata"]["uid"]))
        finally:
            self.api.delete(f"{collection}/{plan.name}")

    def _watched(self, plan: Plan, uid: str) -> Found:
        """By the Job's own uid: pods of an earlier Job of the same name may still be terminating."""
        path = f"/api/v1/namespaces/{plan.namespace}/pods"
        began_s, seen = time.monotonic(), False
        while (elapsed_s := time.monotonic() - began_s) < plan.deadline_s:
            pods = self.api.items(path, labelSelector=f"batch.kubernetes.io/controller-uid={uid}")
            found = broken(pods)
            if answered(pods) and not (found is not None and found.crashed):
                return read_log(self.api.text(f"{path}/{pods[0]['metadata']['name']}/log", container=PROBE))
            if found is not None:
                return found
            if not pods and (seen or elapsed_s > _POD_WITHIN_S):
                return Found(Outcome.ERROR, _without_pod(plan, seen=seen))
            seen = bool(pods)
            self.waiting("pre-flight: the challenger answers the probe set in a Job")
            self.sleep(_POLL_S)
        return Found(Outcome.ERROR, f"the Job did not end within {plan.deadline_s} s")

    def _removed(self, path: str) -> None:
        """An earlier run's Job, which was interrupted."""
        self.api.delete(path)
        ends_s = time.monotonic() + _POD_WITHIN_S
        while self.api.get(path) is not None:
            if time.monotonic() > ends_s:
                raise RefusedError(f"the Job of an earlier pre-flight is still there after {_POD_WITHIN_S:g} s: {path}")
            self.sleep(_POLL_S)


def _without_pod(plan: Plan, *, seen: bool) -> str:
    if seen:
        return "the Job's pod was removed by somebody else, for example with its node"
    return (
        f"the Job had no pod within {_POD_WITHIN_S:g} s; what refuses it says `kubectl -n {plan.namespace} get events "
        f"--field-selector involvedObject.name={plan.name}`"
    )
