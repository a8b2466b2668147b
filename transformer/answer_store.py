"""What the cache asks of the place where entries are kept.

What belongs here: the interface and its one error. What does not: the stores themselves (`memory_store`,
`redis_store`), and what is done about a store that fails (`answer_cache`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StoreFailed(Exception):
    """The store could not be read or written in time; the message is for the log, and holds no secret."""


class AnswerStore(Protocol):
    """Keeps entries under keys for a while; it may lose any of them at any time."""

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The entries of these keys in their order, None where there is none; raises `StoreFailed`."""
        ...

    async def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries, replacing what was there; raises `StoreFailed` when any of them was not stored."""
        ...

    async def close(self) -> None:
        """Give back what the store holds; it is not used again."""
        ...
