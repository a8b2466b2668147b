"""A Job in which the challenger answers the probe set, with the released images and with the service's own download.

What belongs here: the Job as a document, made of the service's own templates, and reading what came of it. What does
not: the cluster (`preflight`), and what the probe's container does (`probe_command`).

The pod has the containers of a collocated service - predictor on port 8081, transformer on 8080 - and one that sends
the probe set to 127.0.0.1. KServe's webhook sees the same container name, annotations and service account as in the
service's own pods, and adds the same download container with the same credentials: what the Job can read, a revision
can. That holds for a ClusterStorageContainer that the service names, too, because KServe (0.20,
`addStorageInitializerAnnotations`) notes the name in the template's annotations and its webhook reads it there.

Servers do not end by themselves, so the container of the probe is watched, and the Job is deleted afterwards; its own
deadline ends it if nobody is left to do so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.inference_service import DIGEST_VARIABLE, VERSION_VARIABLE
from rollout.pod_failure import pod_failure
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rollout.release import ModelVersion

PREDICTOR, TRANSFORMER, PROBE = "kserve-container", "transformer-container", "probe"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_KSERVE = "serving.kserve.io/"
_KEPT = ("serviceAccountName", "imagePullSecrets", "nodeSelector", "tolerations")
_SCRATCH = "probe-scratch"
"""Where the probe may write: libraries make caches, and its own file system is read-only."""

_ONLY_IN_A_SERVICE = ("HEIMDALL_INFERENCE_SERVICE", "REDIS_HOST", "REDIS_URL")
"""Environment of the transformer that ties it to the live service: the arms that it watches, and its cache."""

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_RESOURCES = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
_KEPT_S = 3_600
_ENDED_FROM_OUTSIDE = (128 + 9, 128 + 15)
"""Exit codes by SIGKILL and SIGTERM."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the Job is made of.

    Attributes:
        name: Of the Job.
        namespace: The service's.
        image: With this command.
        command: Of the probe's container, behind `heimdall`.
        env: Of the probe's container, for its access to the probe set.
        deadline_s: After which the cluster ends it.
    """

    name: str
    namespace: str
    image: str
    command: Sequence[str]
    env: Sequence[Mapping[str, Any]]
    deadline_s: int


def job(
    plan: Plan, challenger: ModelVersion, predictor: Mapping[str, Any], transformer: Mapping[str, Any]
) -> dict[str, Any]:
    """The Job.

    Args:
        plan: What it is made of.
        challenger: The version on trial.
        predictor: The revision template of the service's predictor.
        transformer: That of its transformer.
    """
    spec, labels = predictor["spec"], {"app.kubernetes.io/name": "heimdall", _SERVICE_LABEL: plan.name}
    annotations = {name: text for name, text in predictor["metadata"]["annotations"].items() if _KSERVE in name}
    annotations[SOURCE] = challenger.storage_uri
    pod = {name: spec[name] for name in _KEPT if name in spec} | {
        "restartPolicy": "Never",
        "volumes": [*(spec.get("volumes") or []), {"name": _SCRATCH, "emptyDir": {"sizeLimit": "1Gi"}}],
        "containers": [
            _predictor(_serving(spec), challenger),
            _transformer(_serving(transformer["spec"])),
            _probe(plan),
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": plan.name, "namespace": plan.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": plan.deadline_s,
            "ttlSecondsAfterFinished": _KEPT_S,
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


@dataclass(frozen=True, slots=True)
class Found:
    """What came of the Job.

    Attributes:
        outcome: PASS, or FAIL, or INCONCLUSIVE where not every capture was answered; ERROR where nothing is known.
        sentence: For people.
        crashed: Whether it fails because the predictor ended by itself, which may have been the node's fault once.
    """

    outcome: Outcome
    sentence: str
    crashed: bool = False


def answered(pods: list[dict[str, Any]]) -> bool:
    """Whether the probe has ended, so that its log says what it found."""
    return PROBE in _terminated(pods)


def broken(pods: list[dict[str, Any]]) -> Found | None:
    """Why the probe will never answer; None while it still may."""
    for name, state in _terminated(pods).items():
        if name in {PREDICTOR, TRANSFORMER} or (name != PROBE and state.get("exitCode", 0) != 0):
            message = str(state.get("message") or state.get("reason") or "").strip()
            sentence = f"container {name} ended with exit code {state.get('exitCode')}: {message[-500:]}"
            crashed = name == PREDICTOR and _by_itself(state)
            return Found(Outcome.FAIL if crashed else Outcome.ERROR, sentence, crashed)
    if why := pod_failure(pods):
        return Found(Outcome.ERROR, why)
    for status in (pod.get("status", {}) for pod in pods):
        if status.get("phase") == "Failed":
            return Found(Outcome.ERROR, f"the pod failed, {status.get('reason', '')}: {status.get('message', '')}")
    return None


def _terminated(pods: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each container that has ended did so, by its name."""
    return {
        one["name"]: one["state"]["terminated"]
        for pod in pods
        for kind in ("initContainerStatuses", "containerStatuses")
        for one in pod.get("status", {}).get(kind) or []
        if "terminated" in one["state"]
    }


def _by_itself(state: Mapping[str, Any]) -> bool:
    """Not by a signal from outside, which a drain or an eviction sends; but memory is what the model asks for."""
    return state.get("reason") == "OOMKilled" or state.get("exitCode") not in {0, *_ENDED_FROM_OUTSIDE}


def read_log(log: str) -> Found:
    """What the last line of the probe's log says; the log itself where that is no answer."""
    last = log.strip().rpartition("\n")[2]
    try:
        document = json.loads(last)
        return Found(Outcome(document["outcome"]), str(document["sentence"]))
    except (ValueError, KeyError, TypeError):
        return Found(Outcome.ERROR, f"the probe ended without an answer: {log.strip()[-500:] or 'it said nothing'}")


def _serving(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """KServe's own name of the container; the first where an older one gave none."""
    containers: list[dict[str, Any]] = spec["containers"]
    return next((one for one in containers if one.get("name") == PREDICTOR), containers[0])


def _bare(container: Mapping[str, Any]) -> dict[str, Any]:
    """Without ports and probes: nothing is routed here."""
    unwanted = {"ports", "readinessProbe", "livenessProbe", "startupProbe"}
    return {name: value for name, value in container.items() if name not in unwanted}


def _predictor(container: Mapping[str, Any], challenger: ModelVersion) -> dict[str, Any]:
    own = {VERSION_VARIABLE: challenger.version, DIGEST_VARIABLE: challenger.model_digest}
    kept = [one for one in container.get("env") or [] if one["name"] not in own]
    env = [*({"name": name, "value": text} for name, text in own.items()), *kept]
    args = [*(container.get("args") or []), "--http_port=8081"]
    return _bare(container) | {"name": PREDICTOR, "env": env, "args": args}


def _transformer(container: Mapping[str, Any]) -> dict[str, Any]:
    env = [one for one in container.get("env") or [] if one["name"] not in _ONLY_IN_A_SERVICE]
    args = [
        *(container.get("args") or []),
        "--predictor_host=localhost:8081",
        "--http_port=8080",
        "--enable_grpc=false",
    ]
    return _bare(container) | {"name": TRANSFORMER, "env": env, "args": args}


def _probe(plan: Plan) -> dict[str, Any]:
    return {
        "name": PROBE,
        "image": plan.image,
        "args": list(plan.command),
        "env": [dict(one) for one in plan.env],
        "resources": _RESOURCES,
        "volumeMounts": [{"name": _SCRATCH, "mountPath": "/tmp"}],  # noqa: S108 - of its own container
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _SECURITY,
    }
