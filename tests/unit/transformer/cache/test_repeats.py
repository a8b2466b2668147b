from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from transformer.answer_cache import AnswerCache, ComputedAnswer
from transformer.cache_entry import ItemAnswer
from transformer.cache_key import AnswerSource, item_keys
from transformer.memory_store import MemoryStore
from transformer.metrics import Metrics
from transformer.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B, C = (bytes(f"heimdall:answer:1:{'0' * 24}:{digit * 40}", "ascii") for digit in "abc")
TTL_S = 10.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def test_only_what_was_stored_is_a_repeat() -> None:
    """A key's first lookup is none, later ones are hits or misses; after the store's time a miss is no surprise."""
    events: list[str] = []
    clock = Clock()
    repeats = Repeats(TTL_S, events.append, clock=clock)
    repeats.looked_up([A, B], ())
    assert events == []
    repeats.stored([A, B])
    repeats.looked_up([A, B, C], {A})
    assert events == ["hit", "miss"]
    clock.now_s = TTL_S
    repeats.looked_up([A, B], ())
    assert events == ["hit", "miss"]


def test_storing_again_begins_the_time_anew() -> None:
    """An entry that was stored again is expected for its whole time, and outlives older keys."""
    events: list[str] = []
    clock = Clock()
    repeats = Repeats(TTL_S, events.append, capacity=2, clock=clock)
    repeats.stored([A, B])
    clock.now_s = TTL_S - 1
    repeats.stored([A])
    clock.now_s = TTL_S + 1
    repeats.stored([C])
    repeats.looked_up([A, B, C], {A, C})
    assert events == ["hit", "hit"]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_memory_is_bounded(numbers: list[int]) -> None:
    """However many keys come, only the newest are remembered."""
    events: list[str] = []
    repeats = Repeats(TTL_S, events.append, capacity=8, clock=Clock())
    keys = [b"heimdall:answer:1:0:%040x" % number for number in numbers]
    for key in keys:
        repeats.stored([key])
    newest = list(dict.fromkeys(reversed(keys)))[:8]
    repeats.looked_up(dict.fromkeys(keys), newest)
    assert events == ["hit"] * len(newest)


@pytest.mark.parametrize(("max_bytes", "expected"), [(1 << 20, ["hit"]), (0, ["miss"])])
async def test_in_the_cache(max_bytes: int, expected: list[str]) -> None:
    """With real keys: the second request for one capture is a repeat; a degraded answer, never stored, makes none."""
    events: list[str] = []
    cache = AnswerCache(
        MemoryStore(max_bytes=max_bytes, ttl_s=60),
        observe=lambda *_: None,
        repeats=Repeats(60, events.append),
    )
    source = AnswerSource("m", "1", "sha256:1", "sha256:2", -50.0)
    good, doubtful = item_keys(source, np.arange(32, dtype=np.float32).reshape(2, 2, 4, 2))
    answer = ItemAnswer(45.0, 7.0, 1.0, 1.0, 0.0, None)

    def computing(*degraded: str) -> object:
        async def compute(indices: Sequence[int]) -> Sequence[ComputedAnswer]:
            return [ComputedAnswer(answer, degraded)] * len(indices)

        return compute

    for _ in range(2):
        await cache.answers([good], computing())  # type: ignore[arg-type]  # a coroutine function
        await cache.answers([doubtful], computing("clipped"))  # type: ignore[arg-type]  # the conftest builds it as the cache calls it
        await asyncio.sleep(0.01)
    assert events == expected


def test_for_prometheus() -> None:
    """Repeats are counted by what came of them; whether the cache is asked is looked up at each scrape."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    repeats = Repeats(TTL_S, metrics.cache_repeat)
    asked = [True]
    metrics.cache_up(lambda: asked[0])
    repeats.stored([A, B])
    repeats.looked_up([A, B], {A})
    assert registry.get_sample_value("transformer_cache_repeats_total", {"event": "hit"}) == 1
    assert registry.get_sample_value("transformer_cache_repeats_total", {"event": "miss"}) == 1
    assert registry.get_sample_value("transformer_cache_up") == 1
    asked[0] = False
    assert registry.get_sample_value("transformer_cache_up") == 0
