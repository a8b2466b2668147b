"""The model repository extension (Triton's `extension_model_repository.md`): its values and their JSON.

What belongs here: what the endpoints `/v2/repository/…` take and answer, and who may answer them. What does not:
loading anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import orjson

from oip import fields
from oip.errors import InvalidRequest
from oip.json_document import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Parameter

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"
LOADING = "LOADING"


@dataclass(frozen=True, slots=True)
class RepositoryEntry:
    """One version of a model in the repository: its state, and the reason of a state other than `READY`."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository(Protocol):
    """What the application needs to answer `/v2/repository/…`. Methods raise `OipError` and nothing else on purpose."""

    def index(self) -> Sequence[RepositoryEntry]:
        """Every version that is known, whatever its state."""
        ...

    async def load(self, model_name: str, parameters: Mapping[str, Parameter]) -> None:
        """Load the model, or load it anew; the version served before serves until that is done."""
        ...

    async def unload(self, model_name: str) -> None:
        """Stop serving the model."""
        ...


def decode_parameters(body: bytes) -> Mapping[str, Parameter]:
    """The member `parameters` of a load or unload request; the body may be empty. Raises `InvalidRequest`."""
    return fields.parameters(parse_object(body)) if body.strip() else {}


def decode_index_request(body: bytes) -> bool:
    """Whether only models that are ready are asked for; the body may be empty. Raises `InvalidRequest`."""
    ready = parse_object(body).get("ready", False) if body.strip() else False
    if not isinstance(ready, bool):
        raise InvalidRequest("ready: must be true or false")
    return ready


def encode_index(entries: Sequence[RepositoryEntry], *, ready_only: bool) -> bytes:
    """The answer to `POST /v2/repository/index`; an empty reason is left out."""
    shown = [one for one in entries if one.state == READY or not ready_only]
    return orjson.dumps([{key: value for key, value in _members(one).items() if value} for one in shown])


def _members(entry: RepositoryEntry) -> dict[str, str]:
    return {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
