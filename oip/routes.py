"""The paths of the protocol and of its extensions: which endpoint a request path names.

Sources: OIP `required_api.md`; Triton's `extension_statistics.md` and `extension_model_repository.md`.

What belongs here: path → route, pure. What does not: methods' effects and answers (`asgi`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping


class Endpoint(Enum):
    """What a path names."""

    SERVER = "server metadata"
    LIVE = "server live"
    READY = "server ready"
    MODEL = "model metadata"
    MODEL_READY = "model ready"
    INFER = "inference"
    STATISTICS = "statistics"
    REPOSITORY_INDEX = "repository index"
    REPOSITORY_LOAD = "repository load"
    REPOSITORY_UNLOAD = "repository unload"
    OPENAPI = "OpenAPI document"
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
_SERVER_ENDPOINTS: Mapping[tuple[bytes, ...], Endpoint] = {
    (): Endpoint.SERVER,
    (b"health", b"live"): Endpoint.LIVE,
    (b"health", b"ready"): Endpoint.READY,
    (b"models", b"stats"): Endpoint.STATISTICS,  # of all models; a model of that name is reached by its versions only
    (b"repository", b"index"): Endpoint.REPOSITORY_INDEX,
    (b"openapi.json",): Endpoint.OPENAPI,
}
_MODEL_ENDPOINTS: Mapping[tuple[bytes, ...], Endpoint] = {
    (): Endpoint.MODEL,
    (b"ready",): Endpoint.MODEL_READY,
    (b"infer",): Endpoint.INFER,
    (b"stats",): Endpoint.STATISTICS,
}
_REPOSITORY_ENDPOINTS: Mapping[tuple[bytes, ...], Endpoint] = {
    (b"load",): Endpoint.REPOSITORY_LOAD,
    (b"unload",): Endpoint.REPOSITORY_UNLOAD,
}


@lru_cache(maxsize=256)
def route_of(raw_path: bytes) -> Route:
    """The route of a path.

    An application behind may route by the decoded path, where an encoded letter or slash makes a path of ours of what
    looks foreign (`/%762/repository/…`): such a path must not get past this one.

    Args:
        raw_path: As it came, still percent-encoded, so that a name may hold an encoded slash; without the query.

    Returns:
        `FOREIGN` for paths outside `/v2`, however it is written; `UNKNOWN` for paths in `/v2` that are none of the
        protocol's.
    """
    root, *parts = map(unquote_to_bytes, raw_path.strip(b"/").split(b"/"))
    if root != b"v2":
        decoded_root = unquote_to_bytes(raw_path).lstrip(b"/").partition(b"/")[0]
        return _UNKNOWN if decoded_root == b"v2" else _FOREIGN
    endpoint = _SERVER_ENDPOINTS.get(tuple(parts))
    if endpoint is not None:
        return Route(endpoint)
    if parts[:1] == [b"models"] and len(parts) > 1:
        return _model_route(parts[1], parts[2:])
    if parts[:2] == [b"repository", b"models"] and len(parts) > 2:  # noqa: PLR2004 - the name follows
        return _repository_route(parts[2], parts[3:])
    return _UNKNOWN


def _model_route(name_bytes: bytes, rest: list[bytes]) -> Route:
    version = None
    if rest[:1] == [b"versions"] and len(rest) > 1:
        version, rest = _text(rest[1]), rest[2:]
    name = _text(name_bytes)
    endpoint = _MODEL_ENDPOINTS.get(tuple(rest))
    return _UNKNOWN if endpoint is None or not name or version == "" else Route(endpoint, name, version)


def _repository_route(name_bytes: bytes, rest: list[bytes]) -> Route:
    name = _text(name_bytes)
    endpoint = _REPOSITORY_ENDPOINTS.get(tuple(rest))
    return _UNKNOWN if endpoint is None or not name else Route(endpoint, name)


def _text(segment: bytes) -> str:
    return segment.decode("utf-8", "replace")
