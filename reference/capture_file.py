"""Captures in a file: `iq` FP32 [K,R,N,2], `latitude` and `longitude` FP64 [K] in an .npz archive.

What belongs here: reading and writing it. What does not: drawing captures (`simulate`).
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from reference.errors import ReferenceFailed
from reference.simulate import Captures, captures
from reference.stamped import locked, make_once

if TYPE_CHECKING:
    from pathlib import Path

CAPTURE_SEED = 11


def prepare_captures(directory: Path, cases: int, seed: int = CAPTURE_SEED) -> Path:
    """Make `directory/captures.npz` unless it is there with as many cases of that seed."""
    with locked(directory):
        path = directory / "captures.npz"
        return make_once(path, f"{cases} captures of seed {seed}", lambda fresh: save(fresh, captures(seed, cases)))


def save(path: Path, drawn: Captures) -> None:
    """Write captures to `path`."""
    latitude, longitude = drawn.position_deg.T
    np.savez(path, iq=drawn.iq, latitude=latitude, longitude=longitude)


def load(path: Path) -> Captures:
    """Read what `save` wrote.

    Raises:
        ReferenceFailed: The file cannot be read or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            position = np.stack([archive["latitude"], archive["longitude"]], axis=-1)
            return Captures(np.asarray(archive["iq"], dtype=np.float32), position)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReferenceFailed(f"{path} holds no captures: {error}") from error
