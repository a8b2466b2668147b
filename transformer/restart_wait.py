"""Waiting for the one predictor that this process can ask, while it is being restarted.

What belongs here: who waits, and for how long. What does not: what is asked again afterwards (`upstream`).

In collocated mode the predictor is another container of the same pod. Nobody else answers at its address, so asking
again at once meets the same closed port until the kubelet has started the container anew, about a second later.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAUSE_S = 0.05
"""Between two questions whether it is back: a connection to the same host that is refused costs next to nothing."""


class RestartWait:
    """Lets every request wait for the same return of the predictor. For one event loop: it holds no lock.

    Args:
        ready: Whether the predictor at a base URL is ready; False while it cannot be reached.
        longest_s: How long after it was first missed requests still wait; 0 for not at all.
    """

    def __init__(self, ready: Callable[[str], Awaitable[bool]], *, longest_s: float) -> None:
        self._ready = ready
        self._longest_s = longest_s
        self._until_s = math.inf
        self._return: asyncio.Task[None] | None = None

    async def over(self, base_url: str, deadline_s: float) -> bool:
        """Wait until the predictor is ready again; False if that takes too long, or none is waited for here.

        Who comes when `longest_s` is over does not wait: a container that crashes again and again stays away for
        minutes, and its clients had better hear of it at once.

        Args:
            base_url: Where it was missed.
            deadline_s: When the request's time is up (`time.monotonic()`).
        """
        if self._longest_s == 0.0:
            return False
        if self._return is None:
            self._until_s = time.monotonic() + self._longest_s
            self._return = asyncio.create_task(self._watch(base_url))
        remaining_s = min(self._until_s, deadline_s) - time.monotonic()
        if remaining_s <= 0.0:
            return False
        awaited = self._return
        await asyncio.wait({awaited}, timeout=remaining_s)
        return awaited.done() and not awaited.cancelled()

    async def close(self) -> None:
        """Watch for no return any more: who waits for it is told that it did not come."""
        if self._return is not None:
            self._return.cancel()
            await asyncio.wait({self._return})

    async def _watch(self, base_url: str) -> None:
        while not await self._ready(base_url):  # noqa: ASYNC110 - another container tells nobody that it is back
            await asyncio.sleep(PAUSE_S)
        self._return = None
