"""The versions of the model that are served, and how one takes the place of another.

What belongs here: loading beside what serves, swapping, and the reasons of what could not be loaded. What does not:
requests (`model`), when to look for something new (`following`), and the protocol's words for it (`repository`).

A swap is one assignment on the event loop. A request holds the version that it began with, so nobody has to count:
when the last one has its answer, nothing refers to the old version any more and its session ends.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oip import log_fields
from predictor.artifact import versions_in
from predictor.errors import PredictorError
from predictor.loaded import LoadedModel, find
from predictor.plan import InlineRuns
from predictor.recorder import Recorder
from predictor.settings import ALL_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predictor.metrics import PredictorMetrics
    from predictor.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version that answers requests.

    Attributes:
        loaded: The model.
        recorder: What it has done.
        inline: Whether it may run in the event loop.
        log_fields: What the log lines of its requests say about it.
    """

    loaded: LoadedModel
    recorder: Recorder
    inline: InlineRuns
    log_fields: Mapping[str, str]


class Catalog:
    """The versions of one model.

    Args:
        settings: Which model, and how it is run.
        metrics: Is told what is served and what was loaded.
    """

    def __init__(self, settings: Settings, metrics: PredictorMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._served: dict[str, Served] = {}
        self._current: Served | None = None
        self._failures: dict[str, str] = {}
        self._changing = asyncio.Lock()

    @property
    def current(self) -> Served | None:
        """What answers requests that name no version; None before the first load and after `unload`."""
        return self._current

    @property
    def served(self) -> Mapping[str, Served]:
        """Everything that answers requests, by version."""
        return self._served

    @property
    def failures(self) -> Mapping[str, str]:
        """Why the last attempt to load a version failed, by version; empty where it is not known which."""
        return self._failures

    def load(self) -> None:
        """Load what the settings name, for the first time; raises `PredictorError` if any of it cannot be served."""
        try:
            self._swap([self._load_one(version) for version in (self._settings.model_version, *self._others())])
        except PredictorError:
            self._metrics.loads["failed"] += 1
            raise

    async def reload(self, version: str | None = None) -> None:
        """Load what the settings name now, beside what serves, and let it take over; unchanged files are kept.

        Args:
            version: To be served in place of the version that the settings name.

        Raises:
            PredictorError: What is served stays as it was, and `failures` says why.
        """
        async with self._changing:
            try:
                loaded = [await asyncio.to_thread(self._load_one, version or self._settings.model_version)]
                for other in await asyncio.to_thread(self._others):
                    if other != loaded[0].artifact.version:
                        loaded.append(await asyncio.to_thread(self._load_one, other))
            except PredictorError:
                self._metrics.loads["failed"] += 1
                raise
            self._swap(loaded)

    def unload(self) -> None:
        """Serve nothing any more."""
        self._swap([])

    def _others(self) -> list[str]:
        wanted = self._settings.also_versions
        return versions_in(self._settings.model_dir) if wanted == (ALL_VERSIONS,) else list(wanted)

    def _load_one(self, version: str | None) -> LoadedModel:
        """Load a version, or take it as it is if it is served already. Runs in a thread once requests are served."""
        own = version == self._settings.model_version
        digest = self._settings.model_digest if own else None
        settings = replace(self._settings, model_version=version, model_digest=digest)
        known = version or ""
        try:
            found = find(settings)
            known = found.version
            serving = self._served.get(known)
            loaded = serving.loaded if serving and serving.loaded.artifact == found else LoadedModel.of(found, settings)
        except PredictorError as error:
            self._failures[known] = str(error)
            raise
        self._failures.pop(known, None)
        self._failures.pop("", None)
        return loaded

    def _swap(self, loaded: list[LoadedModel]) -> None:
        """Serve these and nothing else; the first one is the current one."""
        before, self._served = self._served, {one.artifact.version: self._serve(one) for one in loaded}
        self._current = self._served[loaded[0].artifact.version] if loaded else None
        if self._current is not None:
            log_fields.of_process(**self._current.log_fields)
        for version in before.keys() - self._served.keys():
            self._metrics.ended(version)

    def _serve(self, loaded: LoadedModel) -> Served:
        version = loaded.artifact.version
        already = self._served.get(version)
        if already is not None and already.loaded is loaded:
            return already
        recorder = self._metrics.recorder(version) or Recorder()
        digests = {name: str(digest) for name, digest in loaded.digests.items()}
        self._metrics.serves(version, recorder, digests)
        self._metrics.loads["ok"] += 1
        details = {"model": self._settings.model_name, "version": version, **digests}
        logger.info("version %s is loaded: %s", version, loaded.plan, extra=details)
        inline = InlineRuns(loaded.plan.inline_rows, self._settings.inline_run_us * 1e-6)
        return Served(loaded, recorder, inline, {"version": version, **digests})
