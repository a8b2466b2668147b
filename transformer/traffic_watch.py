"""The arms as they are now, kept by a watch on the InferenceService.

What belongs here: when to list, when to watch, what to keep while the API server is away. What does not: the API
(`kubernetes_api`) and the meaning of the status (`traffic`).

    list ──▶ watching ──(the watch ends as asked)──▶ watching
      ▲          │ 410: the version is too old
      ├──────────┘
      └── back off ◀── stale (no answer: the last arms stay) or forbidden (no permission: Knative's split)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from transformer.kubernetes_api import ApiError, ApiRefused, Expired, Seen
from transformer.traffic import Routing, parse_traffic, sole_arm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from transformer.arms import Arms
    from transformer.kubernetes_api import Bookmark

_NO_PERMISSION = frozenset({401, 403})
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 10.0
"""A rollback must be seen soon after the API server is back, so waiting longer would save the wrong thing."""

_FORBIDDEN_BACKOFF_S = 30.0
"""A Role that comes later than the pod, as in one `helm install`, is noticed without a restart."""

_RELIST_PAUSE_S = 0.1
"""Before the list that follows an expired watch: an API server that forgets everything must not be asked in a loop."""

_SHORTEST_WATCH_S = 0.5
"""A watch that ends sooner did not end as it was asked to."""

logger = logging.getLogger(__name__)


class WatchState(StrEnum):
    """How much the arms can be trusted."""

    OFF = "off"
    """No cluster, or not started: one arm, Knative's split."""
    WATCHING = "watching"
    """The arms are those of the status."""
    STALE = "stale"
    """The API server is away; the last known arms stay."""
    FORBIDDEN = "forbidden"
    """No permission: one arm, Knative's split."""


class Source(Protocol):
    """The part of the API that the watch needs."""

    async def find(self) -> Seen:
        """The object now."""
        ...

    def changes(self, resource_version: str) -> AsyncGenerator[Seen | Bookmark, None]:
        """Its changes after this version."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the watch knows; replaced as a whole, so that a reader sees all of a change or nothing.

    Attributes:
        arms: To draw from.
        state: How they are known.
        since_s: Since when the state holds, on the clock of `time.monotonic()`.
        warning: Why the arms are fewer than the status names, if they are.
    """

    arms: Arms
    state: WatchState
    since_s: float
    warning: str | None = None

    def describe(self) -> str:
        """The state for people, for example "stale for 12 s"."""
        age_s = time.monotonic() - self.since_s
        return f"{self.state} for {age_s:.0f} s" if self.state is WatchState.STALE else str(self.state)


class TrafficWatch:
    """Keeps the arms of one predictor. Without a source it stays off, with one arm.

    Args:
        base_url: The predictor's ordinary URL.
        source: One InferenceService; None where there is no cluster.
        changed: Called with the first snapshot, and in the event loop with every new one.
        jitter: Uniform in [0, 1); spreads the reconnections of many transformers.
    """

    def __init__(
        self,
        base_url: str,
        source: Source | None,
        *,
        changed: Callable[[Snapshot], None] = lambda _: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base_url = base_url
        self._source = source
        self._changed = changed
        self._jitter = jitter
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.snapshot = Snapshot(sole_arm(base_url), WatchState.OFF, time.monotonic())
        changed(self.snapshot)

    @property
    def arms(self) -> Arms:
        """The arms to draw from now."""
        return self.snapshot.arms

    async def start(self, *, timeout_s: float = 2.0) -> None:
        """Begin to watch, and wait a moment for the first news, so that the first requests find the real arms.

        Called again, it does nothing but wait for the same, so a component without a moment of its own for starting can
        call it in every request.
        """
        if self._source is None or self._settled.is_set():
            return
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(self._source), name="traffic-watch")
        with contextlib.suppress(TimeoutError):  # `wait_for` would lose a cancellation that comes with the news
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._source is not None:
            await self._source.close()

    async def _keep(self, source: Source) -> None:
        """Follow the object for ever; whatever goes wrong is answered by asking again later."""
        failures = 0
        while True:
            try:
                async for _ in self._followed(source):
                    failures = 0
            except Expired:
                await asyncio.sleep(_RELIST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - a watch that ends would freeze the arms for good
                wait_s = self._failed(error, failures)
                failures += 1
                await asyncio.sleep(wait_s)

    async def _followed(self, source: Source) -> AsyncIterator[None]:
        """List, then watch again and again; yields after every sign of life."""
        seen = await source.find()
        self._take(seen)
        version = seen.resource_version
        while True:
            yield
            began_s = time.monotonic()
            async with contextlib.aclosing(source.changes(version)) as changes:
                async for change in changes:
                    version = change.resource_version
                    if isinstance(change, Seen):
                        self._take(change)
                    yield
            if time.monotonic() - began_s < _SHORTEST_WATCH_S:
                raise ApiError("the API server ended the watch at once")

    def _take(self, seen: Seen) -> None:
        """Make the object's arms the current ones."""
        routing = Routing(sole_arm(self._base_url))
        if seen.inference_service is not None:
            routing = parse_traffic(seen.inference_service, self._base_url, self.arms)
        if routing.warning is not None and routing.warning != self.snapshot.warning:
            logger.warning("%s", routing.warning)
        self._replace(routing.arms, WatchState.WATCHING, routing.warning)

    def _failed(self, error: Exception, failures: int) -> float:
        """Take note of the failure; returns how long to wait, in seconds."""
        forbidden = isinstance(error, ApiRefused) and error.status in _NO_PERMISSION
        state = WatchState.FORBIDDEN if forbidden else WatchState.STALE
        if self.snapshot.state is not state:
            expected = isinstance(error, ApiError)
            logger.warning("the traffic watch is %s: %s", state, error, exc_info=None if expected else error)
        self._replace(sole_arm(self._base_url) if forbidden else self.arms, state, self.snapshot.warning)
        if forbidden:
            return _FORBIDDEN_BACKOFF_S * (0.5 + self._jitter() / 2)
        return backoff_s(failures, self._jitter())

    def _replace(self, arms: Arms, state: WatchState, warning: str | None) -> None:
        before = self.snapshot
        if arms != before.arms:
            logger.info("arms: %s", ", ".join(f"{arm.name} {arm.revision} {arm.percent} %" for arm in arms.candidates))
        since_s = before.since_s if state is before.state else time.monotonic()
        self.snapshot = Snapshot(arms, state, since_s, warning)
        self._changed(self.snapshot)
        self._settled.set()


def backoff_s(failures: int, jitter: float) -> float:
    """Exponential back-off, half of it random, so that clients that failed together do not come back together.

    Args:
        failures: Failures in a row before this one.
        jitter: Uniform in [0, 1).
    """
    ceiling_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures, 16))
    return ceiling_s * (0.5 + jitter / 2)
