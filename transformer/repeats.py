"""Whether the cache keeps what it was given: what became of lookups whose answer this process has stored before.

What belongs here: remembering keys for a while, and counting. What does not: the cache itself (`answer_cache`).

Live samples never repeat, so the plain hit rate says how clients ask, not how the cache works. Among repeats a miss is
the cache's own: an entry that was dropped for want of memory, a store that lost it or is away. A repeat of what another
process has stored is not recognised, which makes the figure a sample of the repeats, and no worse a one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

REMEMBERED = 32_768
"""Keys that are remembered, the newest ones: about 5 MB, and more than five minutes at 100 new captures a second."""

_DIGITS = 16
"""Of a key's hexadecimal digits, those that are remembered: 64 bits, by which two of so many keys are mistaken for each
other with a probability of 3e-11."""


class Repeats:
    """Recognises repeated keys.

    Args:
        ttl_s: How long the store keeps an entry, in seconds; later a miss is no surprise.
        count: Told "hit" or "miss" for every repeat that was looked up.
        capacity: How many keys are remembered.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        ttl_s: float,
        count: Callable[[str], None],
        *,
        capacity: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._count = count
        self._capacity = capacity
        self._clock = clock
        self._stored_s: OrderedDict[int, float] = OrderedDict()

    def stored(self, keys: Iterable[bytes]) -> None:
        """These keys were handed to the store, whether it took them or not."""
        now_s = self._clock()
        for key in keys:
            name = _name(key)
            self._stored_s[name] = now_s
            self._stored_s.move_to_end(name)
        while len(self._stored_s) > self._capacity:
            self._stored_s.popitem(last=False)

    def looked_up(self, keys: Iterable[bytes], hits: Container[bytes]) -> None:
        """These keys were asked for, and the store had some of them."""
        oldest_s = self._clock() - self._ttl_s
        for key in keys:
            if self._stored_s.get(_name(key), oldest_s) > oldest_s:
                self._count("hit" if key in hits else "miss")


def _name(key: bytes) -> int:
    return int(key[-_DIGITS:], 16)
