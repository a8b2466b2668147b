"""One InferenceService at the Kubernetes API server: list it, then follow its changes.

What belongs here: the in-cluster configuration, HTTP, and the watch protocol
(https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes). What does not: what the
object means (`traffic`), and when to ask again (`traffic_watch`). The `kubernetes` client would do the same in a thread
of its own, for half a second of import time and 30 MB.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's identity."""

_OK = 200
_GONE = 410
_MAX_EVENT_BYTES = 4 * 1024 * 1024  # etcd refuses objects over 1.5 MB by default; JSON is no more than twice as long


class ApiError(Exception):
    """The API server gave no usable answer."""


class ApiRefused(ApiError):
    """The API server answered with an error.

    Args:
        status: Its HTTP status; 401 and 403 are about this pod's permission.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the API server answered with status {status}")
        self.status = status


class Expired(ApiError):
    """The changes since this resource version are no longer known; list again."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API server is and who this pod is.

    Attributes:
        url: Scheme, host and port of the API server.
        namespace: The pod's own namespace.
        token_path: The bearer token; read again for every request, because the kubelet rotates it.
        ca_path: The certificate authority of the API server.
    """

    url: str
    namespace: str
    token_path: Path
    ca_path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The object at one moment; None where there is no such InferenceService (any more)."""

    resource_version: str
    inference_service: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """No news up to this version, so that a later watch can begin there."""

    resource_version: str


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Cluster | None:
    """The cluster that this process runs in; None outside of one, or without a service account."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    namespace_path = directory / "namespace"
    if not host or not namespace_path.is_file():
        return None
    literal = f"[{host}]" if ":" in host else host
    namespace = namespace_path.read_text(encoding="utf-8").strip()
    return Cluster(f"https://{literal}:{port}", namespace, directory / "token", directory / "ca.crt")


class InferenceServiceApi:
    """Reads one InferenceService. Needs `list` and `watch` on that name alone: a field selector makes the difference.

    Args:
        cluster: The API server.
        name: The InferenceService, in the cluster's namespace.
        request_timeout_s: For connecting, for listing, and for the first line of a watch's answer.
        watch_s: The API server ends a watch after this long; a new one costs a single small request. A connection that
            died without a word is believed for this and `request_timeout_s`, 20 s.
    """

    def __init__(self, cluster: Cluster, name: str, *, request_timeout_s: float = 5.0, watch_s: int = 15) -> None:
        self._cluster = cluster
        self._path = f"/apis/serving.kserve.io/v1beta1/namespaces/{cluster.namespace}/inferenceservices"
        self._selector = {"fieldSelector": f"metadata.name={name}"}
        self._request_timeout_s = request_timeout_s
        self._watch_s = watch_s
        self._session: aiohttp.ClientSession | None = None

    async def find(self) -> Seen:
        """The object now; raises `ApiError`."""
        async with self._get({}, silence_s=self._request_timeout_s) as response:
            listed = _parsed(await response.read())
        items = listed.get("items") or [None]
        return Seen(listed["metadata"]["resourceVersion"], items[0])

    async def changes(self, resource_version: str) -> AsyncGenerator[Seen | Bookmark, None]:
        """Every change after this version, until the API server ends the watch as it was asked to.

        Raises:
            Expired: The version is too old.
            ApiError: Anything else.
        """
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(self._watch_s),
        }
        async with self._get(parameters, silence_s=self._watch_s + self._request_timeout_s) as response:
            async for line in _lines(response):
                yield _change(_parsed(line))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _get(self, parameters: Mapping[str, str], *, silence_s: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """One answer of the API server; `silence_s` is the longest time without a byte of it."""
        try:
            async with self._pool().get(
                self._cluster.url + self._path,
                params={**self._selector, **parameters},
                headers={"Authorization": f"Bearer {self._token()}"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._request_timeout_s, sock_read=silence_s),
                allow_redirects=False,
            ) as response:
                if response.status == _GONE:
                    raise Expired("the list is older than the API server's memory")
                if response.status != _OK:
                    raise ApiRefused(response.status)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"the API server cannot be reached: {type(error).__name__}") from error

    def _pool(self) -> aiohttp.ClientSession:
        # Made at the first call, because a session belongs to the event loop that it is made in.
        if self._session is None:
            secure = self._cluster.url.startswith("https:")
            context = ssl.create_default_context(cafile=self._cluster.ca_path) if secure else False
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context), headers={"Accept": "application/json"}
            )
        return self._session

    def _token(self) -> str:
        return self._cluster.token_path.read_text(encoding="utf-8").strip()


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of the answer as they come; aiohttp's own reader refuses those over 128 KiB."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_EVENT_BYTES:
            raise ApiError("an event of the watch has no end")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ApiError("the API server's answer is no JSON") from error
    if not isinstance(members, dict):
        raise ApiError("the API server's answer is no object")
    return members


def _change(event: Mapping[str, Any]) -> Seen | Bookmark:
    """Read one event of a watch."""
    kind, thing = event.get("type"), event.get("object", {})
    if kind == "ERROR":
        code = thing.get("code", 0)
        raise Expired("the watch is too old") if code == _GONE else ApiRefused(code)
    version = thing["metadata"]["resourceVersion"]
    if kind == "BOOKMARK":
        return Bookmark(version)
    return Seen(version, None if kind == "DELETED" else thing)
