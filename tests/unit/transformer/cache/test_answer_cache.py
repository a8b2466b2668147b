from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer import answer_cache
from transformer.answer_cache import AnswerCache, ComputedAnswer, Looked
from transformer.answer_store import StoreFailed
from transformer.cache_entry import ItemAnswer, encode_entry
from transformer.circuit_breaker import CircuitBreaker
from transformer.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Make = Callable[[bytes], ItemAnswer]


class Model:
    """Computes the items of one batch and remembers which."""

    def __init__(self, keys: Sequence[bytes], answer_of: Make, degraded: tuple[str, ...] = ()) -> None:
        self.keys = keys
        self.answer_of = answer_of
        self.degraded = degraded
        self.calls: list[list[int]] = []

    async def __call__(self, indices: Sequence[int]) -> list[ComputedAnswer]:
        """The answers of these items."""
        self.calls.append(list(indices))
        await asyncio.sleep(0)
        return [ComputedAnswer(self.answer_of(self.keys[index]), self.degraded) for index in indices]


@pytest.fixture
def cache(told_store: Any, events: Any, clock: Any) -> AnswerCache:  # noqa: ANN401 - types of a conftest
    """A cache over the told store, with breakers that open at the third failure."""
    breakers = [CircuitBreaker(clock=clock, fraction=lambda: 0.0) for _ in range(2)]
    return AnswerCache(told_store, observe=events, reads=breakers[0], writes=breakers[1], max_pending_writes=2)


@pytest.fixture
def ask(cache: AnswerCache, answer_of: Make) -> Callable[..., Any]:
    """Asks the cache for keys, checks that every answer is its key's, and returns the result and the model's calls."""

    async def asking(*keys: bytes, degraded: tuple[str, ...] = (), bypass: bool = False) -> tuple[Looked, list[Any]]:
        model = Model(keys, answer_of, degraded)
        looked = await cache.answers(keys, model, bypass=bypass)
        assert looked.answers == tuple(answer_of(key) for key in keys)
        for _ in range(5):
            await asyncio.sleep(0)  # for what is written behind the answer
        return looked, model.calls

    return asking


async def test_what_was_computed_once_is_a_hit(ask: Any, events: Any, told_store: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Only the misses are computed, in one call; one lookup and one write for the batch."""
    await ask(b"b")
    looked, calls = await ask(b"a", b"b", b"c")
    assert looked.cached == (False, True, False)
    assert calls == [[0, 2]]
    looked, calls = await ask(b"c", b"b", b"a")
    assert looked.cached == (True, True, True)
    assert calls == []
    assert told_store.reads == [(b"b",), (b"a", b"b", b"c"), (b"c", b"b", b"a")]
    assert told_store.writes == [(b"b",), (b"a", b"c")]
    assert events == {"hit": 4, "miss": 3}


async def test_equal_items_of_a_batch_are_computed_once(ask: Any, events: Any, told_store: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """An item that comes twice is looked up, computed and stored once, and answered twice."""
    looked, calls = await ask(b"a", b"b", b"a", b"a")
    assert looked.cached == (False,) * 4
    assert calls == [[0, 1]]
    looked, calls = await ask(b"a", b"a")
    assert looked.cached == (True, True)
    assert told_store.reads == [(b"a", b"b"), (b"a",)]
    assert events == {"miss": 2, "coalesced": 2, "hit": 2}


async def test_bypass_neither_reads_nor_writes_nor_waits(ask: Any, events: Any, told_store: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A client that wants no cached answer gets none, leaves none, and computes every item by itself."""
    await ask(b"a")
    (looked, calls), (_, others) = await asyncio.gather(ask(b"a", b"b", b"b", bypass=True), ask(b"b"))
    assert looked.cached == (False,) * 3
    assert calls == [[0, 1, 2]]
    assert others == [[0]]
    assert told_store.writes == [(b"a",), (b"b",)]
    assert events == {"miss": 2, "bypass": 3}


async def test_degraded_answers_are_not_stored(ask: Any, told_store: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A doubtful answer is given with its reasons, and computed again the next time."""
    looked, _ = await ask(b"a", degraded=("clipped",))
    assert looked.degraded == (("clipped",),)
    _, calls = await ask(b"a")
    assert calls == [[0]]
    assert told_store.writes == [(b"a",)]


async def test_those_who_wait_get_the_reasons_too(ask: Any, events: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """An answer that was shared carries the doubts about it to everybody."""
    results = await asyncio.gather(*(ask(b"a", degraded=("power",)) for _ in range(5)))
    assert [looked.degraded for looked, _ in results] == [(("power",),)] * 5
    assert sum(len(calls) for _, calls in results) == 1
    assert events == {"miss": 1, "coalesced": 4}


async def test_what_is_being_computed_is_not_looked_up(cache: AnswerCache, told_store: Any, answer_of: Make) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A request that can wait for a computation spares the store the question."""
    gate = asyncio.Event()

    async def compute(indices: Sequence[int]) -> list[ComputedAnswer]:
        await gate.wait()
        return [ComputedAnswer(answer_of(b"a")) for _ in indices]

    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(cache.answers([b"a"], compute)))
        await asyncio.sleep(0.01)
    gate.set()
    assert [looked.answers for looked in await asyncio.gather(*tasks)] == [(answer_of(b"a"),)] * 3
    assert told_store.reads == [(b"a",)]


async def test_errors_are_raised_and_not_stored(cache: AnswerCache, told_store: Any, events: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A failed computation leaves nothing behind but its error."""

    async def compute(_indices: Sequence[int]) -> list[ComputedAnswer]:
        raise OSError("no predictor")

    with pytest.raises(OSError, match="no predictor"):
        await cache.answers([b"a"], compute)
    assert told_store.writes == []
    assert events == {"miss": 1}


@pytest.mark.parametrize("entry", [b"", b"garbage", bytes(64), "another key's"])
async def test_a_bad_entry_is_a_counted_miss_and_is_replaced(
    ask: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    told_store: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    events: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    answer_of: Make,
    entry: bytes | str,
) -> None:
    """Damage in the store costs a computation and nothing else."""
    told_store.entries[b"a"] = entry if isinstance(entry, bytes) else encode_entry(b"b", answer_of(b"b"))
    looked, _ = await ask(b"a")
    assert looked.cached == (False,)
    assert events == {"miss": 1, "error": 1}
    looked, _ = await ask(b"a")
    assert looked.cached == (True,)


async def test_a_store_that_fails_is_asked_no_more(ask: Any, told_store: Any, events: Any, clock: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Every request is answered; after three failures the store is left alone until one request finds it back."""
    told_store.fail()
    for _ in range(10):
        looked, calls = await ask(b"a")
        assert (looked.cached, calls) == ((False,), [[0]])
    assert len(told_store.reads) == 3
    assert events["miss"] == 10
    told_store.read_failure = told_store.write_failure = None
    clock.now_s += 0.6
    await ask(b"a")
    looked, _ = await ask(b"a")
    assert looked.cached == (True,)
    assert len(told_store.reads) == 5


async def test_a_store_that_is_full_is_still_read(
    ask: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    cache: AnswerCache,
    told_store: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    events: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Refused writes end after three, with one line in the log; hits go on."""
    await ask(b"a")
    told_store.write_failure = StoreFailed("OOM")
    for number in range(10):
        looked, _ = await ask(b"a", b"%d" % number)
        assert looked.cached == (True, False)
    assert len(told_store.writes) == 1 + 3
    assert events["error"] == 3
    assert cache.store_answers
    assert len(caplog.records) == 1


async def test_writes_do_not_pile_up(ask: Any, told_store: Any, events: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The answer never waits for a write, and writes beyond the bound are dropped and counted."""
    told_store.gate = asyncio.Event()
    for number in range(5):
        await ask(b"%d" % number)
    assert len(told_store.writes) == 2
    assert events["error"] == 3
    told_store.gate.set()


async def test_closing_waits_for_writes(ask: Any, cache: AnswerCache, told_store: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """What was computed before the end is stored."""
    told_store.gate = asyncio.Event()
    await ask(b"a")
    asyncio.get_running_loop().call_later(0.02, told_store.gate.set)
    await cache.close()
    assert b"a" in told_store.entries
    assert told_store.closed


async def test_closing_does_not_wait_forever(
    ask: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    cache: AnswerCache,
    told_store: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that hangs does not keep the process alive."""
    monkeypatch.setattr(answer_cache, "DRAIN_S", 0.01)
    told_store.gate = asyncio.Event()
    await ask(b"a")
    await cache.close()
    assert told_store.closed


async def test_a_cancelled_probe_does_not_lock_the_store_out(ask: Any, told_store: Any, clock: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """When the one request that probes the store is cancelled, the next one probes."""
    told_store.fail()
    for _ in range(3):
        await ask(b"a")
    clock.now_s += 1
    told_store.read_failure = told_store.write_failure = None
    probe = asyncio.create_task(ask(b"a"))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    reads = len(told_store.reads)
    await ask(b"a")
    assert len(told_store.reads) == reads + 1


batches = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(0, 2**32 - 1))
async def test_concurrent_traffic_never_mixes_keys(answer_of: Make, batches: list[list[int]], seed: int) -> None:
    """Whatever overlaps, fails, expires, is cancelled or damaged: an answer is always its own key's."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    counts: Counter[str] = Counter()

    class Fickle(MemoryStore):
        async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            await asyncio.sleep(rng.choice((0, 0, 0.001)))
            if rng.random() < 0.2:
                raise StoreFailed("fickle")
            entries = await super().get_many(keys)
            if rng.random() < 0.2:
                rng.shuffle(entries)
            return entries

    cache = AnswerCache(
        Fickle(max_bytes=2000, ttl_s=60),
        observe=lambda event, items: counts.update({event.value: items}),
        reads=CircuitBreaker(first_pause_s=0.001, longest_pause_s=0.001),
    )

    async def request(numbers: list[int]) -> bool:
        keys = [b"key %d" % number for number in numbers]

        async def compute(indices: Sequence[int]) -> list[ComputedAnswer]:
            await asyncio.sleep(rng.choice((0, 0.001)))
            if rng.random() < 0.1:
                raise OSError("fickle")
            return [ComputedAnswer(answer_of(keys[index])) for index in indices]

        try:
            async with asyncio.timeout(0.0005 if rng.random() < 0.1 else 5):
                looked = await cache.answers(keys, compute)
        except (OSError, TimeoutError):
            return False
        assert looked.answers == tuple(answer_of(key) for key in keys)
        return True

    served = await asyncio.gather(*(request(numbers) for numbers in batches))
    items = sum(len(numbers) for numbers, good in zip(batches, served, strict=True) if good)
    assert items <= counts["hit"] + counts["miss"] + counts["coalesced"]
    await cache.close()
