"""One computation for everybody who asks for the same at the same time.

What belongs here: who computes, who waits, and what happens when either gives up. What does not: the work, and results
of the past (`answer_cache`).

The work runs in a task of its own, which ends with the last request that is interested in it: not with the request that
started it. Those who only waited for a computation that failed do not inherit its failure, which may have come from
the other request's deadline or from another item of its batch; they try again, at worst by themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Value = TypeVar("Value")

LAST_SHARED_ROUND = 2
"""Failed twice by others, a request computes alone. Once would let all that waited for one failure compute at the same
time; without an end a request could wait for one failure after the other."""


@dataclass(frozen=True, slots=True)
class Flown(Generic[Value]):
    """Results by key, and the keys whose results were computed by another request."""

    values: dict[bytes, Value]
    joined: frozenset[bytes]


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    """A computation under way.

    Attributes:
        keys: What it computes.
        task: Computes it, in the order of the keys.
        passengers: How many requests wait for it.
    """

    keys: tuple[bytes, ...]
    task: asyncio.Task[Sequence[Value]]
    passengers: int = 0


class SingleFlight(Generic[Value]):
    """Computes every key at most once at a time.

    Args:
        shared_errors: Errors that the work itself is to blame for, whoever asks: those who waited get them too.
    """

    def __init__(self, shared_errors: tuple[type[Exception], ...] = ()) -> None:
        self._shared_errors = shared_errors
        self._flights: dict[bytes, _Flight[Value]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._flights

    async def run(
        self, keys: Sequence[bytes], work: Callable[[Sequence[bytes]], Awaitable[Sequence[Value]]]
    ) -> Flown[Value]:
        """The values of distinct keys, those that nobody is computing by one call of `work`.

        Raises:
            Exception: What `work` raised, or one of `shared_errors` that another request's work on this key raised.
        """
        values: dict[bytes, Value] = {}
        joined: set[bytes] = set()
        missing = tuple(keys)
        round_number = 0
        while missing:
            round_number += 1
            own, others = self._board(missing, work, alone=round_number > LAST_SHARED_ROUND)
            try:
                if own is not None:
                    values.update(await _arrival(own))
                for flight in others:
                    landed = await self._landing(flight)
                    joined.update(landed)
                    values.update(landed)
            finally:
                for flight in (*others, *([own] if own else ())):
                    self._leave(flight)
            missing = tuple(key for key in missing if key not in values)
        return Flown({key: values[key] for key in keys}, frozenset(joined.intersection(keys)))

    def _board(
        self,
        keys: Sequence[bytes],
        work: Callable[[Sequence[bytes]], Awaitable[Sequence[Value]]],
        *,
        alone: bool,
    ) -> tuple[_Flight[Value] | None, list[_Flight[Value]]]:
        """The flight that is started for these keys, and those of others that carry the rest."""
        own_keys = tuple(key for key in keys if alone or key not in self._flights)
        others = {id(flight): flight for key in keys if not alone and (flight := self._flights.get(key))}
        own = self._start(own_keys, work) if own_keys else None
        for flight in (*others.values(), *([own] if own else ())):
            flight.passengers += 1
        return own, list(others.values())

    def _start(
        self, keys: tuple[bytes, ...], work: Callable[[Sequence[bytes]], Awaitable[Sequence[Value]]]
    ) -> _Flight[Value]:
        async def fly() -> Sequence[Value]:
            return await work(keys)

        flight = _Flight(keys, asyncio.create_task(fly()))
        for key in keys:
            self._flights.setdefault(key, flight)
        flight.task.add_done_callback(lambda task: self._end(flight, task))
        return flight

    def _end(self, flight: _Flight[Value], task: asyncio.Task[Sequence[Value]]) -> None:
        self._forget(flight)
        if not task.cancelled():
            task.exception()  # marks it as seen: when everybody has left, nobody else will

    def _forget(self, flight: _Flight[Value]) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _leave(self, flight: _Flight[Value]) -> None:
        flight.passengers -= 1
        if not flight.passengers and not flight.task.done():
            self._forget(flight)  # at once: nobody may board what is being called off
            flight.task.cancel()

    async def _landing(self, flight: _Flight[Value]) -> dict[bytes, Value]:
        """What another request's computation brought: nothing if it failed, unless the work is to blame."""
        await asyncio.wait((flight.task,))
        if flight.task.cancelled():
            return {}
        error = flight.task.exception()
        if error is None:
            return await _arrival(flight)
        if isinstance(error, self._shared_errors) and len(flight.keys) == 1:  # of several, no one knows which failed
            raise error
        return {}


async def _arrival(flight: _Flight[Value]) -> dict[bytes, Value]:
    """Wait for the computation without letting one's own cancellation reach it."""
    await asyncio.wait((flight.task,))
    return dict(zip(flight.keys, flight.task.result(), strict=True))
