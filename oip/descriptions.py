"""Everything of the protocol but inference: what a server and its models say about themselves.

What belongs here: endpoint and method → status and body. What does not: HTTP (`asgi`), the bodies (`metadata`), and
the optional endpoints (`extensions`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oip import __version__, metadata
from oip.errors import MethodNotAllowed, NotFound
from oip.extensions import REPOSITORY_ENDPOINTS, Extensions
from oip.openapi import encode_openapi
from oip.routes import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from oip.messages import Backend
    from oip.routes import Route

_READ = ("GET", "HEAD")
_METHODS: Mapping[Endpoint, tuple[str, ...]] = dict.fromkeys((Endpoint.INFER, *REPOSITORY_ENDPOINTS), ("POST",))


def allowed_methods(endpoint: Endpoint) -> tuple[str, ...]:
    """The methods of an endpoint."""
    return _METHODS.get(endpoint, _READ)


class Descriptions:
    """Answers what is not inference.

    Args:
        backend: Says what there is.
        draining: Whether the process is about to stop; then readiness is denied.
        extensions: Answers the optional endpoints.
    """

    def __init__(self, backend: Backend, draining: Callable[[], bool], extensions: Extensions) -> None:
        self._backend = backend
        self._draining = draining
        self._extensions = extensions

    async def answer(self, route: Route, method: str, read: Callable[[], Awaitable[bytes]]) -> tuple[int, bytes]:
        """Status and JSON body.

        Args:
            route: Any but inference by POST.
            method: The HTTP method.
            read: Reads the request's body; called by the repository's endpoints only.

        Raises:
            OipError: 404 and 405 among others.
        """
        if route.endpoint is Endpoint.UNKNOWN:
            raise NotFound("there is no such path in /v2")
        if method not in allowed_methods(route.endpoint):
            raise MethodNotAllowed(f"{method} is not allowed for the {route.endpoint.value} endpoint")
        if route.endpoint is Endpoint.STATISTICS:
            return 200, await self._extensions.answer(route, b"")
        if route.endpoint in REPOSITORY_ENDPOINTS:
            return 200, await self._extensions.answer(route, await read())
        return await self._description(route)

    async def _description(self, route: Route) -> tuple[int, bytes]:
        name, version = route.model_name, route.version
        match route.endpoint:
            case Endpoint.SERVER:
                return 200, metadata.encode_server_metadata(self._backend.server_metadata())
            case Endpoint.OPENAPI:
                return 200, encode_openapi(__version__)
            case Endpoint.LIVE:
                return 200, metadata.encode_flag("live", value=True)
            case Endpoint.READY:
                ready = not self._draining() and await self._backend.server_ready()
                return _status(ready=ready), metadata.encode_flag("ready", value=ready)
            case Endpoint.MODEL_READY:
                ready = await self._backend.model_ready(name, version) and not self._draining()
                return _status(ready=ready), metadata.encode_model_ready(name, ready=ready)
            case _:
                return 200, metadata.encode_model_metadata(await self._backend.model_metadata(name, version))


def _status(*, ready: bool) -> int:
    return 200 if ready else 503
