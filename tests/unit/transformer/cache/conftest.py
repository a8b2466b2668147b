"""What the tests of the cache share: clocks and stores that do what they are told, and a recorder of events."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from transformer.answer_store import StoreFailed
from transformer.cache_entry import ItemAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformer.answer_cache import CacheEvent


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """The time that the test has set."""
        return self.now_s


@dataclass
class ToldStore:
    """A store in a dictionary that fails, waits and counts."""

    entries: dict[bytes, bytes] = field(default_factory=dict)
    read_failure: Exception | None = None
    write_failure: Exception | None = None
    gate: asyncio.Event | None = None
    reads: list[tuple[bytes, ...]] = field(default_factory=list)
    writes: list[tuple[bytes, ...]] = field(default_factory=list)
    closed: bool = False

    def fail(self) -> None:
        """From now on neither read nor write."""
        self.read_failure = self.write_failure = StoreFailed("told to")

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entries."""
        self.reads.append(tuple(keys))
        await asyncio.sleep(0)
        if self.read_failure:
            raise self.read_failure
        return [self.entries.get(key) for key in keys]

    async def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep them, once the gate is open."""
        self.writes.append(tuple(entries))
        if self.gate:
            await self.gate.wait()
        if self.write_failure:
            raise self.write_failure
        self.entries.update(entries)

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


class Events(Counter[str]):
    """Counts events by their name."""

    def __call__(self, event: CacheEvent, items: int) -> None:
        """Add to the count."""
        self[event.value] += items


@pytest.fixture
def clock() -> Clock:
    """A clock at a standstill."""
    return Clock()


@pytest.fixture
def told_store() -> ToldStore:
    """An empty store."""
    return ToldStore()


@pytest.fixture
def events() -> Events:
    """Nothing happened yet."""
    return Events()


@pytest.fixture(scope="session")
def answer_of() -> Callable[[bytes], ItemAnswer]:
    """An answer that only this key has."""

    def make(key: bytes) -> ItemAnswer:
        return ItemAnswer(float(int.from_bytes(key[-6:], "big")), 7.5, 1000.0, 500.0, 0.25, 0.5)

    return make
