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
from predictor.errors import PredictorError, Unloaded
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
        self._unloads = 0

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
        """Load what the settings name, for the first time; raises `PredictorError` if the current one cannot be served.

        Further versions that cannot be served are left out, and `failures` says why.
        """
        self._swap(self._load_all(self._settings.model_version))

    async def reload(self, version: str | None = None) -> None:
        """Load what the settings name now, beside what serves, and let it take over; unchanged files are kept.

        Further versions that cannot be loaded stay as they were, served or not, and `failures` says why.

        Args:
            version: To be served in place of the version that the settings name.

        Raises:
            Unloaded: The model was unloaded meanwhile, which counts: nothing is served.
            PredictorError: What is served stays as it was, and `failures` says why.
        """
        unloads = self._unloads
        async with self._changing:
            loaded = await asyncio.to_thread(self._load_all, version or self._settings.model_version)
            if unloads != self._unloads:
                raise Unloaded("the model was unloaded while it was being loaded")
            self._swap(loaded)

    def unload(self) -> None:
        """Serve nothing any more, at once; a load that is under way comes to nothing."""
        self._unloads += 1
        self._swap([])

    def _others(self) -> list[str]:
        wanted = self._settings.also_versions
        return versions_in(self._settings.model_dir) if wanted == (ALL_VERSIONS,) else list(wanted)

    def _load_all(self, version: str | None) -> list[LoadedModel]:
        """This version and the further ones that can be served. Runs in a thread once requests are served."""
        try:
            current, others = self._load_one(version), self._others()
        except Exception:
            self._metrics.loads["failed"] += 1
            raise
        beside = [self._load_other(other) for other in others if other != current.artifact.version]
        return [current, *(one for one in beside if one is not None)]

    def _load_other(self, version: str) -> LoadedModel | None:
        """A further version; where it cannot be loaded, what is served of it."""
        try:
            return self._load_one(version)
        except (PredictorError, OSError) as error:
            self._metrics.loads["failed"] += 1
            logger.warning("version %s cannot be served beside the current one: %s", version, error)
            serving = self._served.get(version)
            return serving.loaded if serving else None

    def _load_one(self, version: str | None) -> LoadedModel:
        """Load a version, or take it as it is if it is served already."""
        own = version == self._settings.model_version
        digest = self._settings.model_digest if own else None
        settings = replace(self._settings, model_version=version, model_digest=digest)
        known = version or ""
        try:
            found = find(settings)
            known = found.version
            serving = self._served.get(known)
            loaded = serving.loaded if serving and serving.loaded.artifact == found else LoadedModel.of(found, settings)
        except (PredictorError, OSError) as error:
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
