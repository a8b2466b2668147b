from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from transformer.memory_store import ENTRY_OVERHEAD_BYTES, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRY = ENTRY_OVERHEAD_BYTES + 2
"""Size of an entry with a key and a value of one byte each."""


async def test_an_entry_is_found_until_its_time_is_over(clock: Callable[[], float]) -> None:
    """An entry lives for its time to live, counted from when it was last stored, and not longer."""
    store = MemoryStore(max_bytes=10_000, ttl_s=60, clock=clock)
    await store.put_many({b"a": b"1"})
    clock.now_s += 59.9
    assert await store.get_many([b"a", b"b"]) == [b"1", None]
    clock.now_s += 0.1
    assert await store.get_many([b"a"]) == [None]
    assert store.size_bytes == 0


async def test_the_least_recently_used_makes_room() -> None:
    """Reading and replacing count as use; the entry used longest ago goes first."""
    store = MemoryStore(max_bytes=3 * ENTRY, ttl_s=60)
    await store.put_many({b"a": b"1", b"b": b"1", b"c": b"1"})
    await store.get_many([b"a"])
    await store.put_many({b"b": b"2"})
    await store.put_many({b"d": b"1"})
    assert await store.get_many([b"a", b"b", b"c", b"d"]) == [b"1", b"2", None, b"1"]


async def test_an_entry_larger_than_the_store_is_not_kept() -> None:
    """The bound holds whatever is put in."""
    store = MemoryStore(max_bytes=ENTRY, ttl_s=60)
    await store.put_many({b"a": bytes(100)})
    assert await store.get_many([b"a"]) == [None]
    assert store.size_bytes == 0


async def test_closing_forgets_everything() -> None:
    """Nothing is left after closing."""
    store = MemoryStore(max_bytes=10_000, ttl_s=60)
    await store.put_many({b"a": b"1"})
    await store.close()
    assert await store.get_many([b"a"]) == [None]
    assert store.size_bytes == 0


keys = st.sampled_from([bytes([65 + index]) for index in range(6)])
steps = st.lists(st.tuples(st.booleans(), keys), max_size=40)


@given(steps)
async def test_it_is_an_lru_of_its_size(steps: list[tuple[bool, bytes]]) -> None:
    """For any traffic it holds what a list that is sorted by last use holds, and its reckoning of bytes is exact."""
    store = MemoryStore(max_bytes=3 * ENTRY, ttl_s=60)
    recent: list[bytes] = []
    for put, key in steps:
        if put:
            await store.put_many({key: b"1"})
        found = await store.get_many([key])
        assert (found == [b"1"]) == (put or key in recent)
        if put or key in recent:
            recent = [*(other for other in recent if other != key), key][-3:]
        assert store.size_bytes == len(recent) * ENTRY
