"""A Job in which the challenger answers the probe set, with the released images and with KServe's own download.

What belongs here: the Job as a document, made of the service's own templates, and reading what came of it. What does
not: the cluster (`preflight`), and what the probe's container does (`probe_command`).

The pod has the containers of a collocated service - predictor on port 8081, transformer on 8080 - and one that sends
the probe set to 127.0.0.1. KServe's webhook sees the same container name, annotations and service account as in the
service's own pods, and adds the same storage initializer with the same credentials: what the Job can read, a revision
can. Servers do not end by themselves, so the container of the probe is watched, and the Job is deleted afterwards; its
own deadline ends it if nobody is left to do so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.inference_service import DIGEST_VARIABLE, VERSION_VARIABLE
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rollout.release import ModelVersion

PREDICTOR, TRANSFORMER, PROBE = "kserve-container", "transformer-container", "probe"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_KSERVE = "serving.kserve.io/"
_KEPT = ("serviceAccountName", "volumes", "imagePullSecrets", "nodeSelector", "tolerations")
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
    plan: Plan, challenger: ModelVersion, predictor: Mapping[str, Any], transformer: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The Job.

    Args:
        plan: What it is made of.
        challenger: The version on trial.
        predictor: The revision template of the service's predictor.
        transformer: That of its transformer; None where both are in the predictor's.
    """
    spec, labels = predictor["spec"], {"app.kubernetes.io/name": "heimdall", _SERVICE_LABEL: plan.name}
    annotations = {name: text for name, text in predictor["metadata"]["annotations"].items() if _KSERVE in name}
    annotations[SOURCE] = challenger.storage_uri
    pod = {name: spec[name] for name in _KEPT if name in spec} | {
        "restartPolicy": "Never",
        "containers": [
            _predictor(_named(spec, PREDICTOR), challenger),
            _transformer(_named(spec, TRANSFORMER) if transformer is None else transformer["spec"]["containers"][0]),
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
    """What the probe's container said.

    Attributes:
        outcome: PASS, or FAIL, or INCONCLUSIVE where not every capture was answered.
        sentence: For people.
    """

    outcome: Outcome
    sentence: str


def ended(pods: list[dict[str, Any]]) -> str | None:
    """None while the Job's pod goes on; empty when the probe ended by itself; else why it never will."""
    statuses = {
        one["name"]: one
        for pod in pods
        for kind in ("initContainerStatuses", "containerStatuses")
        for one in pod.get("status", {}).get(kind) or []
    }
    terminated = {name: one["state"]["terminated"] for name, one in statuses.items() if "terminated" in one["state"]}
    if PROBE in terminated:
        return ""
    for name, state in terminated.items():
        if name in {PREDICTOR, TRANSFORMER} or state.get("exitCode", 0) != 0:
            message = str(state.get("message") or state.get("reason") or "").strip()
            return f"container {name} ended with exit code {state.get('exitCode')}: {message[-500:]}"
    return None


def read_log(log: str) -> Found:
    """What the last line of the probe's log says; the log itself where that is no answer."""
    last = log.strip().rpartition("\n")[2]
    try:
        document = json.loads(last)
        return Found(Outcome(document["outcome"]), str(document["sentence"]))
    except (ValueError, KeyError, TypeError):
        return Found(Outcome.ERROR, f"the probe ended without an answer: {log.strip()[-500:] or 'it said nothing'}")


def _named(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    containers: list[dict[str, Any]] = spec["containers"]
    return next((one for one in containers if one.get("name") == name), containers[0])


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
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _SECURITY,
    }
