"""Addresses of names, remembered for a few seconds.

What belongs here: asking the system and remembering. What does not: connections (`http_client`).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_AGE_S = 5.0
"""A cluster's name server says the same (its records live 5 to 30 s); a service that moved is found within this."""


class NameLookup:
    """Looks names up; those who ask for the same name share the answer. For one event loop.

    Args:
        max_age_s: How long an answer is remembered. A failure is not.
    """

    def __init__(self, max_age_s: float = MAX_AGE_S) -> None:
        self._max_age_s = max_age_s
        self._known: dict[tuple[str, int], tuple[float, asyncio.Task[Sequence[str]]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """IPv4 and IPv6 addresses in the order that the system prefers; raises `OSError` where there is none."""
        loop = asyncio.get_running_loop()
        asked_s, task = self._known.get((host, port), (0.0, None))
        if task is None or loop.time() - asked_s > self._max_age_s:
            task = loop.create_task(_look_up(host, port))
            task.add_done_callback(lambda done: self._forget_failure(host, port, done))
            self._known[host, port] = (loop.time(), task)
        # Shielded: who gives up must not take the answer from the others who wait for it.
        return await asyncio.shield(task)

    def _forget_failure(self, host: str, port: int, done: asyncio.Task[Sequence[str]]) -> None:
        failed = done.cancelled() or done.exception() is not None
        known = self._known.get((host, port))
        if failed and known is not None and known[1] is done:
            del self._known[host, port]


async def _look_up(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
