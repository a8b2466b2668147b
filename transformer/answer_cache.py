"""The cache in the request path: answers that are known, and one call for those that are not.

What belongs here: the order of lookup, shared computation and storing, and that no failure of the store reaches a
client. What does not: keys (`cache_key`), the entries' form (`cache_entry`), the stores, and what an answer means.

    keys ─▶ lookup (one MGET) ─▶ hits ───────────────────────────────────────▶ answers
                  └─▶ misses ─▶ single flight ─▶ compute (one call) ──────────▶    │
                                                     └─▶ store, behind the answer (one pipeline)
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from oip import tracing
from transformer.answer_store import StoreFailed
from transformer.cache_entry import BadEntry, ItemAnswer, decode_entry, encode_entry
from transformer.circuit_breaker import CircuitBreaker
from transformer.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from transformer.answer_store import AnswerStore
    from transformer.repeats import Repeats

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

DRAIN_S = 1.0
"""What closing waits for writes under way; ten times what one of them may take."""


class CacheEvent(StrEnum):
    """What is counted. Every item whose request succeeds is exactly one of hit, miss, bypass and coalesced."""

    HIT = "hit"
    """The answer came from the store."""
    MISS = "miss"
    """The answer was computed, or tried to be."""
    COALESCED = "coalesced"
    """The answer was computed for another request, or another item of the same one, at the same time."""
    BYPASS = "bypass"
    """The client wanted no cached answer."""
    ERROR = "error"
    """The store failed, was too slow or held a damaged entry: one per operation or entry, beside the item's miss."""


@dataclass(frozen=True, slots=True)
class ComputedAnswer:
    """A fresh answer, and why it deserves less trust; only an answer without such reasons is stored."""

    answer: ItemAnswer
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """The answers to a batch: for each item the numbers, the reasons for less trust, and whether they were stored."""

    answers: tuple[ItemAnswer, ...]
    degraded: tuple[tuple[str, ...], ...]
    cached: tuple[bool, ...]


if TYPE_CHECKING:
    Compute = Callable[[Sequence[int]], Awaitable[Sequence[ComputedAnswer]]]
    Observer = Callable[[CacheEvent, int], None]


class AnswerCache:
    """Answers from a store what it can, and has the rest computed once.

    Nothing here waits for long by itself: the store limits its own time, and the caller that computes limits the rest
    by being cancelled, which ends a computation as soon as no other request waits for it.

    Args:
        store: Keeps the entries.
        observe: Told what happened, with the number of items.
        shared_errors: See `SingleFlight`.
        repeats: Learns whether what was stored is found again.
        reads: Stops lookups while the store does not answer.
        writes: Stops storing while the store refuses, for example when it is full; lookups go on.
        max_pending_writes: More are dropped and counted as errors: the store is slower than the traffic.
    """

    def __init__(
        self,
        store: AnswerStore,
        *,
        observe: Observer,
        shared_errors: tuple[type[Exception], ...] = (),
        repeats: Repeats | None = None,
        reads: CircuitBreaker | None = None,
        writes: CircuitBreaker | None = None,
        max_pending_writes: int = 64,
    ) -> None:
        self._store = store
        self._observe = observe
        self._flights: SingleFlight[ComputedAnswer] = SingleFlight(shared_errors)
        self._repeats = repeats
        self._reads = reads or CircuitBreaker()
        self._writes = writes or CircuitBreaker()
        self._max_pending_writes = max_pending_writes
        self._pending_writes: set[asyncio.Task[None]] = set()

    @property
    def store_answers(self) -> bool:
        """Whether lookups are made at present."""
        return self._reads.closed

    async def answers(self, keys: Sequence[bytes], compute: Compute, *, bypass: bool = False) -> Looked:
        """The answers to a batch.

        Args:
            keys: One for each item (`cache_key.item_keys`); with `bypass` only their number matters.
            compute: Computes the items with these indices, in their order; called at most once unless another request
                failed, and never for a hit. It may outlive this call when other requests wait for the same.
            bypass: Neither look up nor store, nor share a computation.

        Raises:
            Exception: What `compute` raised; or, for an item that another request was computing, one of the
                `shared_errors` that its own `compute` raised.
        """
        if bypass:
            self._observe(CacheEvent.BYPASS, len(keys))
            computed = await compute(range(len(keys)))
            return _looked(computed, (False,) * len(keys))
        # Of equal items the first stands for all. What is being computed already need not be looked up.
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        looked = [key for key in first if key not in self._flights]
        hits = await self._look_up(looked)
        if self._repeats is not None:
            self._repeats.looked_up(looked, hits)
        found = {key: ComputedAnswer(answer) for key, answer in hits.items()}
        missing = [key for key in first if key not in hits]
        if missing:
            flown = await self._flights.run(missing, lambda led: self._compute(led, first, compute))
            found |= flown.values
            self._count(CacheEvent.COALESCED, sum(key not in hits for key in keys) - len(missing) + len(flown.joined))
        self._count(CacheEvent.HIT, sum(key in hits for key in keys))
        return _looked([found[key] for key in keys], tuple(key in hits for key in keys))

    async def close(self) -> None:
        """Let the writes under way end, and close the store."""
        if self._pending_writes:
            _, late = await asyncio.wait(self._pending_writes, timeout=DRAIN_S)
            for task in late:
                task.cancel()
        await self._store.close()

    async def _compute(
        self, keys: Sequence[bytes], places: Mapping[bytes, int], compute: Compute
    ) -> Sequence[ComputedAnswer]:
        self._count(CacheEvent.MISS, len(keys))
        computed = await compute([places[key] for key in keys])
        self._store_later(
            {key: one.answer for key, one in zip(keys, computed, strict=True) if not one.degraded},
        )
        return computed

    # --- the store --------------------------------------------------------------------------------------------------

    async def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, ItemAnswer]:
        """The answers that are stored; none when the store fails."""
        epoch = self._reads.admit() if keys else None
        if epoch is None:
            return {}
        with tracing.span("cache lookup") as span:
            entries = await self._attempt(self._reads, epoch, self._store.get_many(keys), "lookups")
            found = {key: entry for key, entry in zip(keys, entries or (), strict=bool(entries)) if entry is not None}
            answers = {key: answer for key, entry in found.items() if (answer := self._decoded(key, entry))}
            span.set("heimdall.cache.keys", len(keys))
            span.set("heimdall.cache.hits", len(answers))
        self._count(CacheEvent.ERROR, len(found) - len(answers))
        return answers

    def _decoded(self, key: bytes, entry: bytes) -> ItemAnswer | None:
        try:
            return decode_entry(key, entry)
        except BadEntry as damage:
            logger.warning("the cache holds a bad entry under %s: %s", key.decode(), damage)
            return None

    def _store_later(self, answers: Mapping[bytes, ItemAnswer]) -> None:
        """Store behind the answer, which never waits for it."""
        if self._repeats is not None:
            self._repeats.stored(answers)
        if not answers or not self._reads.closed:
            return
        if len(self._pending_writes) >= self._max_pending_writes:
            self._count(CacheEvent.ERROR, 1)
            return
        epoch = self._writes.admit()
        if epoch is not None:
            task = asyncio.create_task(self._write(epoch, answers))
            self._pending_writes.add(task)
            task.add_done_callback(self._pending_writes.discard)

    async def _write(self, epoch: int, answers: Mapping[bytes, ItemAnswer]) -> None:
        entries = {key: encode_entry(key, answer) for key, answer in answers.items()}
        await self._attempt(self._writes, epoch, self._store.put_many(entries), "stores")

    async def _attempt(
        self, breaker: CircuitBreaker, epoch: int, operation: Awaitable[Result], what: str
    ) -> Result | None:
        """The operation's result, or None after it failed; either way the breaker learns of it."""
        try:
            result = await operation
        except StoreFailed as failure:
            self._count(CacheEvent.ERROR, 1)
            if breaker.failed(epoch):
                logger.warning("the cache makes no more %s for a while: %s", what, failure)
            return None
        except BaseException:
            breaker.abandoned(epoch)
            raise
        if breaker.succeeded(epoch):
            logger.info("the cache makes %s again", what)
        return result

    def _count(self, event: CacheEvent, items: int) -> None:
        if items:
            self._observe(event, items)


def _looked(computed: Sequence[ComputedAnswer], cached: tuple[bool, ...]) -> Looked:
    return Looked(tuple(one.answer for one in computed), tuple(one.degraded for one in computed), cached)
