"""The model repository extension over the catalog: index, load, unload.

What belongs here: the protocol's words and errors for what the catalog does. What does not: doing it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oip.errors import InvalidRequest, NotFound, NotImplementedHere
from oip.repository import READY, UNAVAILABLE, RepositoryEntry
from predictor.errors import PredictorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Parameter
    from predictor.catalog import Catalog


class CatalogRepository:
    """An `oip.repository.Repository` of one model.

    Args:
        model_name: The model's name.
        catalog: Its versions.
        writable: Whether `load` and `unload` are offered, or the index alone.
    """

    def __init__(self, model_name: str, catalog: Catalog, *, writable: bool) -> None:
        self._model_name = model_name
        self._catalog = catalog
        self._writable = writable

    def index(self) -> Sequence[RepositoryEntry]:
        """The versions that are served, and those that could not be loaded, with the reason.

        A version that is served although its files could not be loaded again is ready and has a reason.
        """
        failures = dict(self._catalog.failures)
        entries = [
            RepositoryEntry(self._model_name, version, READY, failures.pop(version, ""))
            for version in self._catalog.served
        ]
        broken = [RepositoryEntry(self._model_name, *one) for one in _unavailable(failures)]
        if not entries and not broken:
            return [RepositoryEntry(self._model_name, "", UNAVAILABLE, "unloaded")]
        return [*entries, *broken]

    async def load(self, model_name: str, parameters: Mapping[str, Parameter]) -> None:
        """Load what the settings name now, or the version of the parameter `version`.

        Raises:
            InvalidRequest: It cannot be loaded; what was served before still is. Or a parameter is unknown.
            NotFound: There is no such model.
            NotImplementedHere: Not switched on.
        """
        self._check(model_name)
        unknown = parameters.keys() - {"version"}
        if unknown:
            raise InvalidRequest(f"parameters.{min(unknown)}: is not known here")
        version = parameters.get("version")
        if version is not None and not re.fullmatch("[0-9]{1,18}", str(version)):
            raise InvalidRequest("parameters.version: must be a whole number")
        try:
            await self._catalog.reload(None if version is None else str(version))
        except PredictorError as error:
            raise InvalidRequest(f"the model '{model_name}' could not be loaded: {error}") from error

    async def unload(self, model_name: str) -> None:
        """Serve the model no longer; raises as `load`."""
        self._check(model_name)
        self._catalog.unload()

    def _check(self, model_name: str) -> None:
        if not self._writable:
            raise NotImplementedHere("this server does not load or unload on request (--repository_api)")
        if model_name != self._model_name:
            raise NotFound(f"there is no model '{model_name}'")


def _unavailable(failures: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(version, UNAVAILABLE, reason) for version, reason in failures.items()]
