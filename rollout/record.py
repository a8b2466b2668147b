"""What the cluster remembers of a service's releases.

What belongs here: the running or last release, those before, and the digests that were rejected. What does not: the
registry's tags, which outlive the service.

Releases are in the ConfigMap NAME-rollout, which belongs to the InferenceService and goes with it. The rejected
digests are in the annotation `REJECTED` of the InferenceService's status, one line for each that begins with the
digest: there the chart's admission policy sees them without another object. (A policy that reads a ConfigMap as its
parameter sees no changes of it any more once it was deleted and installed again: observed on Kubernetes 1.34.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rollout.errors import ConflictError
from rollout.release import release_from_json, release_to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from rollout.inference_service import InferenceService
    from rollout.kubernetes_api import KubernetesApi
    from rollout.release import ModelVersion, Release

REJECTED = "heimdall.io/rejected-digests"
_RELEASE, _HISTORY = "release", "history"
_REMEMBERED = 50
"""Releases and digests: a year of one a week."""


@dataclass(frozen=True, slots=True)
class PastRelease:
    """One line of the history.

    Attributes:
        release_id: Its own.
        challenger: Name and version.
        model_digest: The challenger's.
        stage: How it ended.
        began_at: ISO 8601.
        ended_at: ISO 8601.
        reason: Why it was rolled back or refused; empty otherwise.
    """

    release_id: str
    challenger: str
    model_digest: str
    stage: str
    began_at: str
    ended_at: str
    reason: str


class Record:
    """The record of one service.

    Args:
        api: Of its cluster.
        service: Whose releases are recorded.
    """

    def __init__(self, api: KubernetesApi, service: InferenceService) -> None:
        self._api = api
        self._service = service
        self._name = f"{service.name}-rollout"
        self._collection = f"/api/v1/namespaces/{service.namespace}/configmaps"
        self._path = f"{self._collection}/{self._name}"

    def release(self) -> Release | None:
        """The release that is running or was the last; None before the first."""
        text = self._data().get(_RELEASE)
        return release_from_json(text) if text else None

    def save(self, release: Release, at: datetime) -> None:
        """Remember where a release is; one that is over joins the history in the same write."""
        data = {_RELEASE: release_to_json(release)}
        if release.stage.finished:
            lines = [one for one in self.history() if one.release_id != release.release_id]
            kept = [asdict(one) for one in (*lines, _past(release, at))][-_REMEMBERED:]
            data[_HISTORY] = json.dumps(kept, ensure_ascii=False)
        self._set(data)

    def history(self) -> tuple[PastRelease, ...]:
        """The releases that are over, the oldest first."""
        return tuple(PastRelease(**one) for one in json.loads(self._data().get(_HISTORY) or "[]"))

    def rejected(self) -> Mapping[str, str]:
        """Digest → what is remembered of it."""
        lines = self._service.note(REJECTED).splitlines()
        return dict(line.partition(" ")[::2] for line in lines)

    def reject(self, model: ModelVersion, reason: str) -> None:
        """Remember that a version was rolled back; the admission policy then refuses its digest."""
        known = {digest: words for digest, words in self.rejected().items() if digest != model.model_digest}
        first_line = reason.partition("\n")[0][:200]
        self._set_rejected(known | {model.model_digest: f"{model}: {first_line}"})

    def forgive(self, digest: str) -> None:
        """Let a rejected digest be released again."""
        known = self.rejected()
        if digest in known:
            self._set_rejected({one: words for one, words in known.items() if one != digest})

    def _set_rejected(self, known: Mapping[str, str]) -> None:
        lines = [f"{digest} {words}\n" for digest, words in known.items()]
        self._service.set_note(REJECTED, "".join(lines[-_REMEMBERED:]))

    def _data(self) -> Mapping[str, str]:
        found: Mapping[str, str] = (self._api.get(self._path) or {}).get("data") or {}
        return found

    def _set(self, data: Mapping[str, str]) -> None:
        if self._api.get(self._path) is None:
            try:
                self._api.create(self._collection, self._document(data))
            except ConflictError:
                self._api.merge(self._path, {"data": dict(data)})
            return
        self._api.merge(self._path, {"data": dict(data)})

    def _document(self, data: Mapping[str, str]) -> dict[str, Any]:
        metadata = {
            "name": self._name,
            "namespace": self._service.namespace,
            "labels": {"app.kubernetes.io/name": "heimdall", "app.kubernetes.io/instance": self._service.name},
            "ownerReferences": [self._service.reference()],
        }
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}


def _past(release: Release, ended_at: datetime) -> PastRelease:
    challenger = release.challenger
    times = release.began_at.isoformat(), ended_at.isoformat()
    ids = release.release_id, str(challenger), challenger.model_digest
    return PastRelease(*ids, str(release.stage), *times, release.reason)
