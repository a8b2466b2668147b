"""The endpoints that the protocol leaves optional: statistics and the model repository.

What belongs here: which of them are offered, and request → answer. What does not: HTTP (`asgi`), the bodies
(`statistics`, `repository`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oip.errors import NotImplementedHere
from oip.repository import decode_index_request, decode_parameters, encode_index
from oip.routes import Endpoint
from oip.statistics import encode_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oip.repository import Repository
    from oip.routes import Route
    from oip.statistics import ModelStatistics

    Statistics = Callable[[str, str | None], Sequence[ModelStatistics]]
    """Model name (empty for all models) and version → figures; raises `NotFound`."""

REPOSITORY_ENDPOINTS = frozenset({Endpoint.REPOSITORY_INDEX, Endpoint.REPOSITORY_LOAD, Endpoint.REPOSITORY_UNLOAD})


class Extensions:
    """Answers the optional endpoints, or says that this server does not offer them.

    Args:
        statistics: Answers `/v2/models/…/stats`.
        repository: Answers `/v2/repository/…`.
    """

    def __init__(self, statistics: Statistics | None = None, repository: Repository | None = None) -> None:
        self._statistics = statistics
        self._repository = repository

    async def answer(self, route: Route, body: bytes) -> bytes:
        """The JSON answer; raises `NotImplementedHere` (501) for what is not offered, else what the handler raises."""
        if route.endpoint is Endpoint.STATISTICS:
            if self._statistics is None:
                raise NotImplementedHere("this server does not offer statistics")
            return encode_statistics(self._statistics(route.model_name, route.version))
        if self._repository is None:
            raise NotImplementedHere("this server does not offer the model repository extension")
        return await self._answer_repository(self._repository, route, body)

    async def _answer_repository(self, repository: Repository, route: Route, body: bytes) -> bytes:
        if route.endpoint is Endpoint.REPOSITORY_INDEX:
            ready_only = decode_index_request(body)
            return encode_index(repository.index(), ready_only=ready_only)
        parameters = decode_parameters(body)
        if route.endpoint is Endpoint.REPOSITORY_LOAD:
            await repository.load(route.model_name, parameters)
        else:
            await repository.unload(route.model_name)
        return b"{}"
