"""Which aliases of the registry the served version has, for those who ask what is being served.

What belongs here: when the registry is asked, how long its answer is remembered, and what is told while it is away.
What does not: how it is asked (`mlflow_server`).

Aliases move after pods have started, so only the registry knows them. No prediction waits for it: it is asked when
`GET /model/info` is, and seldom enough that any number of these cost it nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from transformer.mlflow_server import RegistryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Ask = Callable[[str], Awaitable[tuple[str, ...]]]

MAX_AGE_S = 10.0
"""How long an answer is remembered, also that there was none: whoever watches a promotion sees it this late."""

logger = logging.getLogger(__name__)


class RegistryAliases:
    """The aliases of one version at a time; those who ask meanwhile share the question. For one event loop.

    Args:
        ask: Asks the registry for a version's aliases; ends soon, whatever happens. None: there is no registry.
        max_age_s: How long an answer is remembered.
    """

    def __init__(self, ask: Ask | None, *, max_age_s: float = MAX_AGE_S) -> None:
        self._ask = ask
        self._max_age_s = max_age_s
        self._version = ""
        self._asked_s = 0.0
        self._answer: asyncio.Task[tuple[str, ...] | None] | None = None
        self._complaint = ""

    async def of(self, version: str, wait_s: float) -> tuple[str, ...] | None:
        """The version's aliases as the registry told them last; None where it told none in time.

        Args:
            version: Its number.
            wait_s: Longest time to wait; the question goes on, for those who ask next.
        """
        if self._ask is None:
            return None
        loop = asyncio.get_running_loop()
        if self._answer is None or version != self._version or loop.time() - self._asked_s > self._max_age_s:
            self._version, self._asked_s = version, loop.time()
            self._answer = loop.create_task(self._told(self._ask, version), name="registry-aliases")
        try:
            async with asyncio.timeout(wait_s):
                # Shielded: who gives up must not take the answer from the others who wait for it.
                return await asyncio.shield(self._answer)
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Ask no longer."""
        if self._answer is not None:
            self._answer.cancel()
            await asyncio.gather(self._answer, return_exceptions=True)
            self._answer = None

    async def _told(self, ask: Ask, version: str) -> tuple[str, ...] | None:
        try:
            aliases = await ask(version)
        except Exception as error:  # noqa: BLE001 - what is served can be told without it, whatever went wrong
            self._complain(error)
            return None
        self._complaint = ""
        return aliases

    def _complain(self, error: Exception) -> None:
        """Say it once, until the registry answers or something else is wrong."""
        complaint = str(error)
        if complaint != self._complaint:
            expected = isinstance(error, RegistryError)
            logger.warning("the registry tells no aliases: %s", complaint, exc_info=None if expected else error)
        self._complaint = complaint
