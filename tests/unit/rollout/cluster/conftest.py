"""A cluster with one service in this process: an API server for JSON objects, and KServe's rules for revisions."""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rollout.errors import ConflictError, DeniedError
from rollout.inference_service import InferenceService
from rollout.policy import Policy
from rollout.record import Record
from rollout.release import ModelVersion, Release, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMESPACE, NAME = "radio", "loc"
ISVC = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{NAME}"
KNATIVE = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services/{NAME}"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
BEGAN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@dataclass
class FakeApi:
    """The part of `KubernetesApi` that the adapters use, over objects in memory.

    Attributes:
        objects: Path → object.
        log: Every change, as method and path.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    _version: Any = field(default_factory=lambda: itertools.count(1))

    def get(self, path: str, **_: str) -> dict[str, Any] | None:
        """A copy, as from a real server."""
        return deepcopy(self.objects.get(path))

    def text(self, path: str, **_: str) -> str:
        """The log of a container, which is kept as an object."""
        return str(self.objects[path]["text"])

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """What a list was set to, by the selector."""
        found: list[dict[str, Any]] = self.objects.get(f"{path}?{query['labelSelector']}", {}).get("items", [])
        return deepcopy(found)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Refuses a second object of one name."""
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{next(self._version)}"
        if f"{path}/{name}" in self.objects:
            raise ConflictError(f"{name} exists")
        return self._write("create", f"{path}/{name}", dict(body))

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Refuses what was changed since it was read."""
        if self.objects[path]["metadata"]["resourceVersion"] != body["metadata"].get("resourceVersion"):
            raise ConflictError(f"{path} was changed")
        return self._write("replace", path, dict(body))

    def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """RFC 7386; the status is part of the object."""
        path = path.removesuffix("/status")
        return self._write("merge", path, _merged(self.objects[path], body))

    def apply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply of fields that nobody removes here."""
        return self._write("apply", path, _merged(self.objects[path], body))

    def delete(self, path: str) -> None:
        """At once."""
        self.log.append(("delete", path))
        self.objects.pop(path, None)

    def _write(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.log.append((method, path))
        body["metadata"] = {"uid": "u", **body["metadata"], "resourceVersion": str(next(self._version))}
        self.objects[path] = deepcopy(body)
        return body


def _merged(old: Any, new: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(old, dict) or not isinstance(new, dict):
        return deepcopy(new)
    merged = {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}


OUT_OF_DATE = {"type": "ConfigurationsReady", "status": "Unknown", "reason": "OutOfDate"}
"""What Knative says of a service whose new template has not become a revision yet, which it has observed."""


@dataclass
class Revision:
    """One revision, and how many looks it needs until it is ready."""

    name: str
    uri: str
    env: list[dict[str, str]]
    looks_left: float
    made_in: int


@dataclass
class FakeCluster(FakeApi):
    """One InferenceService whose revisions become ready after some looks at it.

    The rules are KServe's (createKnativeService): any other template is a new revision; a percentage below 100 goes to
    the newest one once it is ready, the rest to the last that had everything; without a percentage the newest gets
    everything.

    Attributes:
        slow: URI → looks until such a revision is ready; infinite for never.
        broken: URI → why its pods cannot run.
        outdated: Looks at which Knative has taken the new template and made no revision of it yet.
        refused: URIs that an admission policy refuses.
        seen: Shares of the models over time, as they changed.
        fails_at: The number of the change that the server refuses to answer; for interruptions.
    """

    slow: dict[str, float] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    outdated: int = 0
    refused: set[str] = field(default_factory=set)
    seen: list[dict[str, int]] = field(default_factory=list)
    fails_at: float = float("inf")
    _revisions: list[Revision] = field(default_factory=list)
    _stable: Revision | None = None

    def install(self, model: ModelVersion) -> None:
        """The service as the chart makes it, without a percentage, and ready."""
        env = [
            {"name": "HEIMDALL_MODEL_VERSION", "value": model.version},
            {"name": "HEIMDALL_MODEL_DIGEST", "value": model.model_digest},
        ]
        predictor = {"model": {"storageUri": model.storage_uri, "env": env}}
        self._write(
            "create",
            ISVC,
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {"predictor": predictor, "transformer": {}},
                "status": {"url": "http://loc.radio.example.com", "address": {"url": "http://loc.radio.svc"}},
            },
        )
        for _ in range(3):
            self.get(ISVC)
        self.log.clear()
        self.seen.clear()

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """A look at the service lets its time go on."""
        if path == ISVC and ISVC in self.objects:
            self._reconcile()
        return super().get(path, **query)

    def _write(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if len(self.log) >= self.fails_at:
            raise KeyboardInterrupt
        if path == ISVC and body["spec"]["predictor"]["model"]["storageUri"] in self.refused:
            raise DeniedError("ValidatingAdmissionPolicy denied request")
        return super()._write(method, path, body)

    def _reconcile(self) -> None:
        document = self.objects[ISVC]
        predictor = document["spec"]["predictor"]
        uri, env = predictor["model"]["storageUri"], predictor["model"]["env"]
        if not self._revisions or (self._revisions[-1].uri, self._revisions[-1].env) != (uri, env):
            name = f"{NAME}-predictor-{len(self._revisions) + 1:05}"
            looks = float("inf") if uri in self.broken else self.slow.get(uri, 1)
            self._revisions.append(Revision(name, uri, deepcopy(env), looks, self.outdated))
        made = self._revisions
        if made[-1].made_in > 0:
            made[-1].made_in -= 1
            made = made[:-1]
        newest = made[-1]
        newest.looks_left -= 1
        ready = next((one for one in reversed(made) if one.looks_left <= 0), None)
        percent = predictor.get("canaryTrafficPercent", 100)
        if newest is ready and percent == 100:
            self._stable = newest
        shares = self._shares(newest, ready, percent)
        document["status"] |= {
            "conditions": [{"type": "Ready", "status": "True" if newest is ready else "Unknown"}],
            "components": {
                "predictor": {
                    "latestRolledoutRevision": self._stable.name if self._stable else "",
                    "traffic": [{"revisionName": one.name, "percent": share} for one, share in shares],
                }
            },
        }
        models: dict[str, int] = {}
        for one, share in shares:
            models[one.uri] = models.get(one.uri, 0) + share
        models = {uri: share for uri, share in models.items() if share}
        if not self.seen or self.seen[-1] != models:
            self.seen.append(models)
        self._write_knative(newest, ready)

    def _shares(self, newest: Revision, ready: Revision | None, percent: int) -> list[tuple[Revision, int]]:
        if ready is None:
            return []
        if percent == 100 or self._stable is None:
            return [(ready, 100)]
        return [(newest if newest is ready else self._stable, percent), (self._stable, 100 - percent)]

    def _write_knative(self, newest: Revision, ready: Revision | None) -> None:
        metadata = {"name": f"{NAME}-predictor", "generation": len(self._revisions)}
        asked = self._revisions[-1]
        container = {"name": "kserve-container", "args": ["--http_port=8080"], "env": asked.env, "ports": [{}]}
        spec = {"serviceAccountName": "loc-predictor", "containers": [container]}
        template = {"metadata": {"annotations": {SOURCE: asked.uri, "prometheus.io/scrape": "true"}}, "spec": spec}
        status = {
            "observedGeneration": len(self._revisions),
            "latestCreatedRevisionName": newest.name,
            "latestReadyRevisionName": ready.name if ready else "",
            "conditions": [OUT_OF_DATE if newest is not asked else {"type": "ConfigurationsReady", "status": "True"}],
        }
        self.objects[f"{KNATIVE}-predictor"] = {
            "metadata": metadata, "spec": {"template": template}, "status": status,
        }  # fmt: skip
        transformer = {
            "name": "kserve-container",
            "args": ["--workers=1"],
            "env": [{"name": "REDIS_HOST", "value": "r"}],
        }
        own = {"metadata": {"annotations": {}}, "spec": {"containers": [transformer]}}
        self.objects[f"{KNATIVE}-transformer"] = {"metadata": {}, "spec": {"template": own}}
        selector = f"serving.knative.dev/revision={newest.name}"
        self.objects[f"{PODS}?{selector}"] = {"items": self._pods(newest)}

    def _pods(self, newest: Revision) -> list[dict[str, Any]]:
        if newest.uri not in self.broken:
            return []
        state = {
            "name": "kserve-container",
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 3, "message": self.broken[newest.uri]}},
        }
        return [{"metadata": {}, "status": {"containerStatuses": [state]}}]


GOOD = ModelVersion("m", "1", "s3://models/good", "sha256:" + "1" * 64, "sha256:c")
NEXT = ModelVersion("m", "2", "s3://models/next", "sha256:" + "2" * 64, "sha256:c", "{}", (("rms_m", 3.5),), "run")


@pytest.fixture
def good() -> ModelVersion:
    """The champion."""
    return GOOD


@pytest.fixture
def challenger() -> ModelVersion:
    """The version on trial."""
    return NEXT


@pytest.fixture
def api() -> FakeApi:
    """An API server without objects."""
    return FakeApi()


@pytest.fixture
def cluster() -> FakeCluster:
    """A cluster whose service serves the champion."""
    found = FakeCluster()
    found.install(GOOD)
    return found


@pytest.fixture
def service(cluster: FakeCluster) -> InferenceService:
    """Its service."""
    return InferenceService(cluster, NAMESPACE, NAME)  # type: ignore[arg-type]  # the part of it that is used


@pytest.fixture
def record(cluster: FakeCluster, service: InferenceService) -> Record:
    """Its memory."""
    return Record(cluster, service)  # type: ignore[arg-type]  # the part of it that is used


@pytest.fixture
def release() -> Callable[..., Release]:
    """A release that has begun, with any attribute changed."""

    def make(**changes: Any) -> Release:  # noqa: ANN401 - any attribute
        quick = {"minimum_step_s": 30.0, "maximum_step_s": 300.0, "ready_within_s": 60.0, "look_every_s": 35.0}
        probe = {"alpha": 0.2, "probe_captures": 500, "probe_resamples": 999}
        policy = replace(Policy(minimum_calls=100), **quick, **probe)
        begun = Release("r1", NAMESPACE, NAME, NEXT, GOOD, policy, Stage.PREFLIGHT, 0, BEGAN, BEGAN)
        return replace(begun, **changes)

    return make


@dataclass
class Clock:
    """A clock that only goes on when somebody sleeps."""

    now: datetime = BEGAN
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Time goes on."""
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    """Begins when releases begin."""
    return Clock()
