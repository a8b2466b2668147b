"""What a place that models are fetched from has to offer, whatever it is.

What belongs here: the interface of such a place, and how often it is asked again. What does not: any one place; see
`s3_source` and `registry_source`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from predictor.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

CONNECT_TIMEOUT_S = 5.0
"""Time for a connection. Inside a cluster it takes milliseconds; a lost packet is sent again after 1 s and 3 s."""

READ_TIMEOUT_S = 20.0
"""Longest silence of a server. MLflow fetches an object whole before it passes on the first byte."""

ATTEMPTS = 3
"""How often anything is tried that may go better the next time."""

FIRST_PAUSE_S = 0.5
"""The pause after the first attempt; it doubles."""

MAX_FILES = 10_000
"""A folder with more files is not a model's: a listing ends here."""

T = TypeVar("T")


class Interrupted(SourceError):
    """The server did not answer, or not to the end, or says that it is not able to now: it may go better again."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file where it lies.

    Attributes:
        name: Relative to the store's root, with `/`.
        size_bytes: How much of it there has to be; None if the place does not say.
        etag: What changes with its content; None if the place has no such thing.
    """

    name: str
    size_bytes: int | None
    etag: str | None = None


class Store(Protocol):
    """A folder somewhere else. Every method raises `SourceError` when the place does not give what it should."""

    @property
    def where(self) -> str:
        """What messages call it; holds no credentials."""
        ...

    def names(self) -> Collection[str]:
        """The names of all files in it, at most `MAX_FILES`."""
        ...

    def find(self, name: str) -> RemoteFile | None:
        """The file of this name, if there is one."""
        ...

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """The bytes of exactly the file that was found; refused if it has changed since."""
        ...


def persistently(work: Callable[[], T]) -> T:
    """The result of `work`, which is tried again, `ATTEMPTS` times in all, when it was interrupted."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except Interrupted:
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return work()
