"""Following a folder or a registry alias at run time: looking, and loading what is new.

What belongs here: when to look, and what counts as new. What does not: loading (`catalog`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from predictor import source
from predictor.artifact import fingerprint
from predictor.errors import PredictorError, SourceError

if TYPE_CHECKING:
    from predictor.catalog import Catalog
    from predictor.settings import Settings

logger = logging.getLogger(__name__)


async def follow(catalog: Catalog, settings: Settings, seen: tuple[object, ...] | None) -> None:
    """Look every `follow_s` seconds, for ever; what cannot be loaded is told in the log and by the catalog.

    Files that were looked at once are not loaded a second time, whether they could be or not, until they change. A
    source that could not be reached is asked again, and so is whatever failed in a way that nobody thought of.

    Args:
        catalog: Loads what is new.
        settings: Where to look, and how often.
        seen: What `look` found before the catalog's first load. Found after it, a version that came meanwhile would
            count as loaded; found before, it is at worst looked at twice.
    """
    while True:
        await asyncio.sleep(settings.follow_s)
        found = await asyncio.to_thread(look, settings)
        if found not in (None, seen) and await _reload(catalog):
            seen = found


async def _reload(catalog: Catalog) -> bool:
    """Load what is new; whether that is settled, one way or the other."""
    try:
        await catalog.reload()
    except SourceError as error:
        logger.warning("what is new cannot be fetched, and is tried again: %s", error)
        return False
    except PredictorError as error:
        logger.warning("what is new cannot be served, the version before goes on: %s", error)
    except Exception:
        logger.exception("what is new could not be loaded, and is tried again")
        return False
    return True


def look(settings: Settings) -> tuple[object, ...] | None:
    """What the source holds now; None if it cannot be told. Takes as long as a disk or a network does."""
    try:
        return _mark(settings)
    except (OSError, PredictorError) as error:
        logger.warning("the model's source cannot be looked at: %s", error)
    except Exception:
        logger.exception("the model's source cannot be looked at")
    return None


def _mark(settings: Settings) -> tuple[object, ...]:
    if settings.model_uri is None:
        return fingerprint(settings.model_dir)
    return source.within(settings.download_timeout_s, partial(_meaning, settings.model_uri), settings.model_uri)


def _meaning(uri: str) -> tuple[object, ...]:
    pinned = source.resolve(uri, os.environ)
    return (pinned.model, pinned.version, *(sorted(pinned.store.names()) if pinned.version is None else ()))
