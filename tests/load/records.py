"""What came of every single request: one line of JSON each.

What belongs here: the record, its file, and what a generator reads from an answer. What does not: figures over many
(`figures`).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import orjson
from traffic import JSON_SIZE, Form

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

NO_ANSWER = 0
"""Stands where an HTTP status would, if the connection failed or nothing came in time."""

_HIT = (b'"cached":"[true]"', b'"_cache_hit":true')
"""How a hit shows in an answer to one capture, over V2 and over REST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request.

    Attributes:
        intended_s: When it was meant to be sent, on the machine's monotonic clock. In a closed loop: when it was.
        sent_s: When it was sent.
        done_s: When its answer was there, or it was given up.
        form: How the capture was sent.
        capture: Its number.
        status: Of HTTP, or `NO_ANSWER`.
        cached: Whether the answer came from the cache.
        retry_after: Whether a refusal said when to come again.
        digest: Of the numbers in a binary answer; equal for equal captures of one model. Empty for the other forms.
        model: The digest of the model that answered, where the form tells it.
        error: The beginning of what a failed one said.
    """

    intended_s: float
    sent_s: float
    done_s: float
    form: str
    capture: int
    status: int
    cached: bool = False
    retry_after: bool = False
    digest: str = ""
    model: str = ""
    error: str = ""

    @property
    def latency_s(self) -> float:
        """From the intended moment: what waiting for a slow sender costs counts too."""
        return self.done_s - self.intended_s

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.status == 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The part of a record that is read from an answer."""

    status: int
    cached: bool = False
    retry_after: bool = False
    digest: str = ""
    model: str = ""
    error: str = ""

    @classmethod
    def read(cls, form: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """What an HTTP answer says; `headers` finds names in any case."""
        if status != 200:
            return cls(status=status, retry_after="Retry-After" in headers, error=body[:200].decode(errors="replace"))
        hit = any(mark in body for mark in _HIT)
        if form not in {Form.FP32, Form.INT16}:
            return cls(status=status, cached=hit)
        size = int(headers[JSON_SIZE])
        told = orjson.loads(body[:size])
        digest = hashlib.sha256(body[size:]).hexdigest()[:16]
        return cls(status=status, cached=hit, digest=digest, model=str(told["parameters"]["model_digest"]))

    @classmethod
    def none(cls, error: BaseException) -> Answer:
        """There was no answer."""
        return cls(status=NO_ANSWER, error=(repr(error) or type(error).__name__)[:200])

    def members(self) -> dict[str, Any]:
        """As the arguments of a record."""
        return asdict(self)


def write(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records."""
    with path.open("wb") as file:
        file.writelines(
            orjson.dumps({one.name: getattr(record, one.name) for one in _FIELDS}) + b"\n" for record in records
        )


def read(path: Path) -> list[Record]:
    """The records of a file, in the order of their intended moments."""
    with path.open("rb") as file:
        records = [Record(**orjson.loads(line)) for line in file]
    return sorted(records, key=lambda one: one.intended_s)


_FIELDS = fields(Record)
