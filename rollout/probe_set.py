"""A probe set: captures of transmitters whose position is known.

What belongs here: the format, checked. What does not: where the files lie (`probe_folder`), and sending them
(`probe_run`).

A probe set is a folder with `manifest.json` and chunks of captures, so that nobody holds more than one chunk in memory.
docs/verdict.md describes the format for those who write one. The manifest names every chunk's SHA-256, so its own
digest stands for the whole set.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.arrays import F64, I64, Int16

SCHEMA = "heimdall.probe-set/1"
MANIFEST = "manifest.json"
MAXIMUM_CHUNK = 50
"""Captures of one chunk: 6 MB of seven receivers' samples."""

_MEMBERS = frozenset(
    {"schema", "origin", "levels", "latitude", "longitude", "position", "full_scale_dbm", "shape", "chunks"}
)


class ProbeSetError(ValueError):
    """A probe set that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One file of captures.

    Attributes:
        file: Its name beside the manifest.
        captures: How many it holds.
        sha256: Of its bytes, hexadecimal.
    """

    file: str
    captures: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSet:
    """What the manifest says of K captures.

    Attributes:
        digest: "sha256:HEX" of the manifest.
        origin: Where the captures come from, for people.
        levels: [L] confidence levels at which ellipses are judged, increasing.
        truth_deg: [K,2] FP64, the transmitters' latitude and longitude.
        position: [K] INT64, equal for captures of one transmitter position.
        full_scale_dbm: [K] FP64, the power of a sample of magnitude one.
        shape: Receivers R and samples N of each capture.
        chunks: The files, in the captures' order.
    """

    digest: str
    origin: str
    levels: tuple[float, ...]
    truth_deg: F64
    position: I64
    full_scale_dbm: F64
    shape: tuple[int, int]
    chunks: tuple[Chunk, ...]

    def __len__(self) -> int:
        """The number of captures."""
        return len(self.truth_deg)


def parse_manifest(data: bytes) -> ProbeSet:
    """Read `manifest.json`; raises `ProbeSetError`."""
    try:
        found = _probe_set(json.loads(data), "sha256:" + hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, OverflowError, ValueError) as error:
        raise ProbeSetError(f"{MANIFEST}: {error!r}") from error
    _check(found)
    return found


def parse_chunk(data: bytes, chunk: Chunk, probe_set: ProbeSet) -> Int16:
    """The samples INT16 [k,R,N,2] of one chunk's file; raises `ProbeSetError`."""
    if hashlib.sha256(data).hexdigest() != chunk.sha256:
        raise ProbeSetError(f"{chunk.file}: its SHA-256 is not the manifest's")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            iq = np.asarray(archive["iq"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ProbeSetError(f"{chunk.file}: holds no samples: {error}") from error
    expected = (chunk.captures, *probe_set.shape, 2)
    if iq.dtype != np.int16 or iq.shape != expected:
        raise ProbeSetError(f"{chunk.file}: has {iq.dtype} {list(iq.shape)}, and int16 {list(expected)} is expected")
    return iq.astype(np.int16, copy=False)


def _probe_set(document: Mapping[str, Any], digest: str) -> ProbeSet:
    if set(document) != _MEMBERS or document["schema"] != SCHEMA:
        raise ValueError(f"not of schema {SCHEMA} with the members {', '.join(sorted(_MEMBERS))}")
    receivers, samples = (int(size) for size in document["shape"])
    return ProbeSet(
        digest=digest,
        origin=str(document["origin"]),
        levels=tuple(float(level) for level in document["levels"]),
        truth_deg=np.array([document["latitude"], document["longitude"]], dtype=np.float64).T,
        position=np.array(document["position"], dtype=np.int64),
        full_scale_dbm=np.array(document["full_scale_dbm"], dtype=np.float64),
        shape=(receivers, samples),
        chunks=tuple(Chunk(str(one["file"]), int(one["captures"]), str(one["sha256"])) for one in document["chunks"]),
    )


def _check(found: ProbeSet) -> None:
    captures = sum(chunk.captures for chunk in found.chunks)
    problems = {
        "has no captures": captures == 0,
        "latitude and longitude are not one place for each capture": found.truth_deg.shape != (captures, 2),
        "position does not have one number for each capture": found.position.shape != (captures,),
        "full_scale_dbm does not have one number for each capture": found.full_scale_dbm.shape != (captures,),
        "has a place that is not on the Earth": not (np.abs(found.truth_deg) <= (90.0, 180.0)).all(),
        "has a full scale that is not finite": not np.isfinite(found.full_scale_dbm).all(),
        "levels do not increase between 0 and 1": not _increase(found.levels),
        f"has a chunk without captures or with more than {MAXIMUM_CHUNK}": any(
            not 0 < chunk.captures <= MAXIMUM_CHUNK for chunk in found.chunks
        ),
        "has a chunk that lies elsewhere": any("/" in chunk.file or "\\" in chunk.file for chunk in found.chunks),
    }
    for problem, exists in problems.items():
        if exists:
            raise ProbeSetError(f"{MANIFEST}: {problem}")


def _increase(levels: tuple[float, ...]) -> bool:
    return bool(levels) and levels[0] > 0.0 and levels[-1] < 1.0 and list(levels) == sorted(set(levels))
