"""JSON objects of a Kubernetes API server, by their paths.

What belongs here: requests, their timeouts, and what their failures mean. What does not: which objects (the adapters).

Paths instead of the client's generated classes: custom resources have none, and the discovery by which its dynamic
client finds their paths needs permissions and a cache of its own.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from urllib3.exceptions import HTTPError

from rollout.errors import ClusterError, ConflictError, DeniedError

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD_MANAGER = "heimdall-rollout"
_TIMEOUT_S = (5.0, 20.0)
"""To connect, and to read: the API server's own limit for a request is 60 s, and admission webhooks have 10 s."""

_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
"""Set in every pod."""

_APPLY, _MERGE, _PLAIN = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"
_NOT_FOUND, _CONFLICT, _REFUSALS, _FIRST_ERROR = 404, 409, {401, 403, 422}, 400


class KubernetesApi:
    """One API server.

    Args:
        client: Knows the address and the credentials.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, context: str | None = None) -> KubernetesApi:
        """The cluster of KUBECONFIG, or else the one that this process runs in; raises `ClusterError`."""
        try:
            if _IN_CLUSTER in os.environ and "KUBECONFIG" not in os.environ and context is None:
                load_incluster_config()  # type: ignore[no-untyped-call]  # half of the client has no types
            else:
                load_kube_config(os.environ.get("KUBECONFIG"), context)  # type: ignore[no-untyped-call]  # the same
        except (ConfigException, OSError) as error:
            raise ClusterError(f"no cluster is configured: {error}") from error
        return cls(ApiClient())

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """An object, or None if there is none."""
        status, text = self._ask("GET", path, query)
        return None if status == _NOT_FOUND else _read("GET", path, status, text)

    def text(self, path: str, **query: str) -> str:
        """What is no JSON, such as the log of a container."""
        status, text = self._ask("GET", path, query)
        if status >= _FIRST_ERROR:
            _read("GET", path, status, text)
        return text

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = (self.get(path, **query) or {}).get("items") or []
        return found

    def apply(self, path: str, body: Mapping[str, Any], manager: str = FIELD_MANAGER) -> dict[str, Any]:
        """Server-side apply of exactly these fields, also against another owner.

        Not by kubectl: that hands a manager every field which a plain `kubectl apply` set before, and then removes
        those that are not in the new document.
        """
        return self._send("PATCH", path, body, _APPLY, fieldManager=manager, force="true")

    def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change the members that are given; null removes one."""
        return self._send("PATCH", path, body, _MERGE, fieldManager=FIELD_MANAGER)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object in the collection `path`; `ConflictError` if there is one of this name."""
        return self._send("POST", path, body, _PLAIN, fieldManager=FIELD_MANAGER)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; `ConflictError` unless its resourceVersion is still the body's."""
        return self._send("PUT", path, body, _PLAIN, fieldManager=FIELD_MANAGER)

    def delete(self, path: str) -> None:
        """Delete an object and what belongs to it; one that is not there is fine."""
        status, text = self._ask("DELETE", path, {"propagationPolicy": "Background"})
        if status != _NOT_FOUND:
            _read("DELETE", path, status, text)

    def _send(self, method: str, path: str, body: Mapping[str, Any], content_type: str, **query: str) -> dict[str, Any]:
        status, text = self._ask(method, path, query, body, content_type)
        return _read(method, path, status, text)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content_type: str = _PLAIN,
    ) -> tuple[int, str]:
        headers = {"Accept": _PLAIN, "Content-Type": content_type}
        asked, url, headers, _, _ = self._client.param_serialize(
            method, path, query_params=list(query.items()), header_params=headers, auth_settings=["BearerToken"]
        )
        try:
            answer = self._client.call_api(asked, url, headers, body, _request_timeout=_TIMEOUT_S)
            return int(answer.status), bytes(answer.response.data).decode(errors="replace")
        except HTTPError as error:
            raise ClusterError(f"the API server does not answer {method} {path}: {error}") from error


def _read(method: str, path: str, status: int, text: str) -> dict[str, Any]:
    if status < _FIRST_ERROR:
        found: dict[str, Any] = json.loads(text)
        return found
    kind = ConflictError if status == _CONFLICT else DeniedError if status in _REFUSALS else ClusterError
    raise kind(f"{method} {path} answers {status}: {_message(text)}")


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
