"""The protocol's paths (OIP `required_api.md`): which endpoint a request path names.

What belongs here: path → route, pure. What does not: methods' effects and answers (`asgi`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from urllib.parse import unquote_to_bytes


class Endpoint(Enum):
    """What a path names."""

    SERVER = "server metadata"
    LIVE = "server live"
    READY = "server ready"
    MODEL = "model metadata"
    MODEL_READY = "model ready"
    INFER = "inference"
    UNKNOWN = "no endpoint of the protocol"
    FOREIGN = "somebody else's"


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, with the model that it speaks of and the version, where the path names them."""

    endpoint: Endpoint
    model_name: str = ""
    version: str | None = None


_UNKNOWN = Route(Endpoint.UNKNOWN)
_FOREIGN = Route(Endpoint.FOREIGN)
_SERVER_ENDPOINTS = {
    (): Endpoint.SERVER,
    (b"health", b"live"): Endpoint.LIVE,
    (b"health", b"ready"): Endpoint.READY,
}
_MODEL_ENDPOINTS = {(): Endpoint.MODEL, (b"ready",): Endpoint.MODEL_READY, (b"infer",): Endpoint.INFER}


@lru_cache(maxsize=256)
def route_of(raw_path: bytes) -> Route:
    """The route of a path.

    Args:
        raw_path: As it came, still percent-encoded, so that a name may hold an encoded slash; without the query.

    Returns:
        `FOREIGN` for paths outside `/v2` and for the repository extension below it, `UNKNOWN` for other paths in `/v2`.
    """
    root, *parts = raw_path.strip(b"/").split(b"/")
    if root != b"v2" or parts[:1] == [b"repository"]:
        return _FOREIGN
    if parts[:1] == [b"models"] and len(parts) > 1:
        return _model_route(parts[1], parts[2:])
    endpoint = _SERVER_ENDPOINTS.get(tuple(parts))
    return _UNKNOWN if endpoint is None else Route(endpoint)


def _model_route(quoted_name: bytes, rest: list[bytes]) -> Route:
    version = None
    if rest[:1] == [b"versions"] and len(rest) > 1:
        version, rest = _unquoted(rest[1]), rest[2:]
    name = _unquoted(quoted_name)
    endpoint = _MODEL_ENDPOINTS.get(tuple(rest))
    return _UNKNOWN if endpoint is None or not name or version == "" else Route(endpoint, name, version)


def _unquoted(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode("utf-8", "replace")
