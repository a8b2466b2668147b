"""The contract that a model carries: passed on as text, never interpreted here.

What belongs here: the canonical text and its digest. What does not: the meaning of any member; that is known to
whoever builds the model's inputs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NoReturn

from predictor.errors import ArtifactError

METADATA_KEY = "heimdall.contract"
"""The key of ONNX `metadata_props` that holds the contract."""


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract.

    Attributes:
        text: Canonical JSON: keys sorted, no spaces, UTF-8.
        digest: `sha256:` and the hexadecimal SHA-256 of the text.
    """

    text: str
    digest: str

    @classmethod
    def parse(cls, text: str, source: str) -> Contract:
        """The contract written in `text`, in whatever spacing and order of keys.

        Args:
            text: JSON, an object.
            source: Where the text comes from, for the error.

        Raises:
            ArtifactError: The text is not a JSON object, repeats a key, or holds a number that JSON does not have.
        """
        try:
            members = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"the contract in {source} is not valid JSON: {error}") from error
        if not isinstance(members, dict):
            raise ArtifactError(f"the contract in {source} is not a JSON object")
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return cls(canonical, "sha256:" + hashlib.sha256(canonical.encode()).hexdigest())


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
