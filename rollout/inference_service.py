"""One InferenceService: what is seen of it, and the fields of it that a rollout owns.

What belongs here: reading the service, its Knative service and the pods of its newest revision into `Observed`;
setting model and percentage; events. What does not: when to do it (`next_action`, `steps`).

A rollout owns `storageUri`, `canaryTrafficPercent` and two environment variables, and sets them by server-side apply,
always all of them together: what an owner leaves out is removed. The percentage is always there, 100 included: a
field that is missing gives everything to whatever template comes next.

Nothing is noted in annotations or labels of the service: KServe copies both to the templates of both components, so
that each note would make two new revisions, and one of them the canary. The annotations of the *status* are copied
nowhere, outlive every reconciliation, and cannot be lost by applying a manifest.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rollout.errors import RefusedError
from rollout.observed import Observed
from rollout.pod_failure import pod_failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.kubernetes_api import KubernetesApi
    from rollout.release import ModelVersion

API_VERSION = "serving.kserve.io/v1beta1"
VERSION_VARIABLE, DIGEST_VARIABLE = "HEIMDALL_MODEL_VERSION", "HEIMDALL_MODEL_DIGEST"
_SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
_COMPONENT = "heimdall-rollout"
_LONGEST_MESSAGE = 1024
"""Of an event, in characters (Kubernetes, core/v1 Event validation)."""

_LONGEST_COMPLAINT = 500
"""Of a condition, in characters: one that quotes a pod's log may have thousands, and a release has to remember it."""

_OUT_OF_DATE = "OutOfDate"
"""Reason of a Knative service's condition ConfigurationsReady until its template has become a revision."""

_RAW_MODES = {"Standard", "RawDeployment"}
"""Names of the mode without Knative: KServe 0.16 renamed RawDeployment to Standard."""


class InferenceService:
    """One InferenceService in Knative mode.

    Args:
        api: Of its cluster.
        namespace: Its namespace.
        name: Its name.
    """

    def __init__(self, api: KubernetesApi, namespace: str, name: str) -> None:
        self._api = api
        self.namespace = namespace
        self.name = name
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/inferenceservices/{name}"
        self._knative = f"/apis/serving.knative.dev/v1/namespaces/{namespace}/services/{name}-predictor"
        self._knative_transformer = self._knative.removesuffix("predictor") + "transformer"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    def document(self) -> dict[str, Any]:
        """The object as the cluster has it.

        Raises:
            RefusedError: There is none, or not one whose traffic KServe splits.
            ClusterError: The cluster cannot be asked.
        """
        found = self._api.get(self._path)
        if found is None:
            raise RefusedError(f"there is no InferenceService {self.namespace}/{self.name}: install it first")
        annotations = found["metadata"].get("annotations") or {}
        mode = annotations.get("serving.kserve.io/deploymentMode") or found.get("status", {}).get("deploymentMode")
        if mode in _RAW_MODES:
            raise RefusedError(
                f"{self.namespace}/{self.name} is in KServe's {mode} mode, where KServe ignores "
                "canaryTrafficPercent and would give a new version everything at once; a release needs the "
                "Serverless (Knative) mode"
            )
        if "model" not in found.get("spec", {}).get("predictor", {}):
            raise RefusedError(f"{self.namespace}/{self.name} has no spec.predictor.model with a storageUri")
        return found

    def reference(self) -> dict[str, Any]:
        """An ownerReference: what has it is deleted with the service; see `document` for the errors."""
        found = self.document()
        return {"apiVersion": API_VERSION, "kind": found["kind"], "name": self.name, "uid": found["metadata"]["uid"]}

    def observe(self) -> Observed:
        """What there is now; see `document` for the errors."""
        found = self.document()
        knative = self._api.get(self._knative) or {}
        newest = str(knative.get("status", {}).get("latestCreatedRevisionName", ""))
        selector = f"serving.knative.dev/revision={newest}"
        pods = self._api.items(self._pods, labelSelector=selector) if newest else []
        return observed(found, knative, pods)

    def note(self, name: str) -> str:
        """An annotation of the status; empty where there is none."""
        return str((self.document().get("status", {}).get("annotations") or {}).get(name, ""))

    def set_note(self, name: str, value: str) -> None:
        """Set an annotation of the status."""
        self._api.merge(f"{self._path}/status", {"status": {"annotations": {name: value}}})

    def address(self) -> str:
        """The service's URL inside of the cluster; empty before it has one."""
        return str(self.document().get("status", {}).get("address", {}).get("url", ""))

    def url(self) -> str:
        """The service's URL for clients outside; empty before it has one."""
        return str(self.document().get("status", {}).get("url", ""))

    def templates(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The revision templates of predictor and transformer; None for a transformer in the predictor's pod."""
        found = [self._api.get(path) for path in (self._knative, self._knative_transformer)]
        predictor, transformer = (one and one["spec"]["template"] for one in found)
        if predictor is None:
            raise RefusedError(f"{self.namespace}/{self.name} has no Knative service yet")
        return predictor, transformer

    def apply(self, model: ModelVersion, percent: int) -> None:
        """Make the service name this version at this percentage."""
        env = [
            {"name": VERSION_VARIABLE, "value": model.version},
            {"name": DIGEST_VARIABLE, "value": model.model_digest},
        ]
        predictor = {"canaryTrafficPercent": percent, "model": {"storageUri": model.storage_uri, "env": env}}
        body = {
            "apiVersion": API_VERSION,
            "kind": "InferenceService",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"predictor": predictor},
        }
        self._api.apply(self._path, body)

    def tell(self, reason: str, sentence: str, *, warning: bool = False) -> None:
        """Leave an event on the service, which `kubectl describe` shows."""
        found = self.document()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self.name}.", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": "InferenceService",
                "name": self.name,
                "namespace": self.namespace,
                "uid": found["metadata"]["uid"],
                "resourceVersion": found["metadata"]["resourceVersion"],
            },
            "reason": reason,
            "message": sentence[:_LONGEST_MESSAGE],
            "type": "Warning" if warning else "Normal",
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self.name,
            "action": reason,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        self._api.create(f"/api/v1/namespaces/{self.namespace}/events", event)


def observed(service: Mapping[str, Any], knative: Mapping[str, Any], pods: list[dict[str, Any]]) -> Observed:
    """The state that these objects show: an InferenceService, its predictor's Knative service, its newest pods."""
    predictor, status = service["spec"]["predictor"], knative.get("status", {})
    model = predictor["model"]
    env = {one["name"]: str(one.get("value", "")) for one in model.get("env") or []}
    conditions = {one["type"]: one for one in service.get("status", {}).get("conditions") or []}
    shares: Counter[str] = Counter()
    component = service.get("status", {}).get("components", {}).get("predictor", {})
    for target in component.get("traffic") or []:
        shares[target.get("revisionName", "")] += target.get("percent", 0)
    return Observed(
        storage_uri=str(model.get("storageUri", "")),
        model_version=env.get(VERSION_VARIABLE, ""),
        model_digest=env.get(DIGEST_VARIABLE, ""),
        percent=predictor.get("canaryTrafficPercent"),
        arrived=_arrived(model, env, knative),
        ready=conditions.get("Ready", {}).get("status") == "True",
        newest=str(status.get("latestCreatedRevisionName", "")),
        newest_ready=str(status.get("latestReadyRevisionName", "")),
        rolled_out=str(component.get("latestRolledoutRevision", "")),
        traffic=tuple(shares.items()),
        failure=pod_failure(pods),
        complaint=_complaint(conditions),
    )


def _arrived(model: Mapping[str, Any], env: Mapping[str, str], knative: Mapping[str, Any]) -> bool:
    """Whether Knative has made a revision of the model that the service names.

    The InferenceService's own observedGeneration stays 1, so the Knative service is asked whether it has the model. Its
    observedGeneration alone is not enough: it is set while the Configuration that makes the revision still works, and
    the newest revision in the status is the one before. Whoever gives everything to "the newest" then gives it to that.
    """
    if not knative:
        return False
    template, status = knative["spec"]["template"], knative.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    there = {one["name"]: one.get("value", "") for one in _kserve_container(template).get("env") or []}
    return (
        template["metadata"].get("annotations", {}).get(_SOURCE) == model.get("storageUri")
        and all(there.get(name, "") == env.get(name, "") for name in (VERSION_VARIABLE, DIGEST_VARIABLE))
        and knative["metadata"]["generation"] == status.get("observedGeneration")
        and conditions.get("ConfigurationsReady", {}).get("reason") != _OUT_OF_DATE
    )


def _kserve_container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    containers: list[dict[str, Any]] = template["spec"]["containers"]
    return next((one for one in containers if one.get("name") == "kserve-container"), containers[0])


def _complaint(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    failed = [one for one in conditions.values() if one.get("status") == "False" and one.get("message")]
    return str(failed[0]["message"]).strip()[:_LONGEST_COMPLAINT] if failed else ""
