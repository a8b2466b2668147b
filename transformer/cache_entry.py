"""One cached answer as bytes: the model's numbers for one item, sealed against everything that is not that answer.

What belongs here: the numbers and their binary form, exact in both directions. What does not: the presentation
(covariance, ellipse, GeoJSON), which is computed from the numbers for hits and misses alike, and the stores.

Layout, little-endian, 64 bytes (offsets in brackets):

    [0] magic "HDMA"   [4] format 1   [5] 1 if there is a confidence, else 0   [6] two zero bytes
    [8] latitude  [16] longitude  [24] sigma_x_m  [32] sigma_y_m  [40] theta_rad   float64 each
    [48] confidence float32   [52] four zero bytes   [56] seal, 8 bytes

The seal is a digest of the key and of all bytes before it. It finds damage, and it finds an intact entry that arrived
under another key, whatever the client library or a proxy did to bring that about.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oip.messages import Array

MAGIC = b"HDMA"
FORMAT = 1
_NUMBERS = struct.Struct("<4sBB2x5df4x")
_SEAL_BYTES = 8
_SIGMAS = 2
ENTRY_BYTES = _NUMBERS.size + _SEAL_BYTES


class BadEntry(Exception):
    """Bytes from a store that are not the entry of this key."""


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    """The model's outputs for one item, not yet interpreted.

    Attributes:
        latitude: Degrees WGS84.
        longitude: Degrees WGS84.
        sigma_x_m: Standard deviation along theta.
        sigma_y_m: Standard deviation across theta.
        theta_rad: Counter-clockwise from east, as the model gave it; 0 for a model that gives none.
        confidence: A number that float32 can hold; None for a model that has no such output.
    """

    latitude: float
    longitude: float
    sigma_x_m: float
    sigma_y_m: float
    theta_rad: float
    confidence: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutputs:
    """The same for B items: position float64 [B, 2], uncertainty float64 [B, 3], confidence float32 [B] or None."""

    position: Array
    uncertainty: Array
    confidence: Array | None


def split_outputs(position: Array, uncertainty: Array, confidence: Array | None) -> tuple[ItemAnswer, ...]:
    """The outputs of one call of the model, item by item.

    Args:
        position: Floating point [B, 2].
        uncertainty: Floating point [B, 3], or [B, 2], which means theta = 0.
        confidence: Floating point [B] or [B, 1], or None.
    """
    thetas = uncertainty[:, 2].tolist() if uncertainty.shape[1] > _SIGMAS else [0.0] * len(position)
    levels = [None] * len(position) if confidence is None else confidence.reshape(-1).astype(np.float32).tolist()
    rows = zip(position.tolist(), uncertainty[:, :_SIGMAS].tolist(), thetas, levels, strict=True)
    return tuple(
        ItemAnswer(latitude, longitude, sigma_x_m, sigma_y_m, theta_rad, level)
        for (latitude, longitude), (sigma_x_m, sigma_y_m), theta_rad, level in rows
    )


def join_outputs(answers: Sequence[ItemAnswer]) -> ModelOutputs:
    """The outputs as one call of the model would have given them for all items; at least one."""
    position = np.array([(a.latitude, a.longitude) for a in answers], np.float64)
    uncertainty = np.array([(a.sigma_x_m, a.sigma_y_m, a.theta_rad) for a in answers], np.float64)
    levels = [a.confidence for a in answers if a.confidence is not None]
    # All or none: the answers are one model version's, which has the output or has it not.
    return ModelOutputs(position, uncertainty, np.array(levels, np.float32) if levels else None)


def encode_entry(key: bytes, answer: ItemAnswer) -> bytes:
    """The entry of an answer, to be stored under this key."""
    known = answer.confidence is not None
    numbers = _NUMBERS.pack(
        MAGIC,
        FORMAT,
        known,
        answer.latitude,
        answer.longitude,
        answer.sigma_x_m,
        answer.sigma_y_m,
        answer.theta_rad,
        answer.confidence if answer.confidence is not None else 0.0,
    )
    return numbers + _seal(key, numbers)


def decode_entry(key: bytes, entry: bytes) -> ItemAnswer:
    """The answer that was stored under this key; raises `BadEntry` for bytes that are anything else."""
    if len(entry) != ENTRY_BYTES:
        raise BadEntry(f"{len(entry)} bytes instead of {ENTRY_BYTES}")
    numbers = entry[:-_SEAL_BYTES]
    magic, version, known, latitude, longitude, sigma_x_m, sigma_y_m, theta_rad, confidence = _NUMBERS.unpack(numbers)
    if magic != MAGIC or version != FORMAT:
        raise BadEntry("not an answer in this format")
    if entry[-_SEAL_BYTES:] != _seal(key, numbers):
        raise BadEntry("damaged, or another key's")
    answer = ItemAnswer(latitude, longitude, sigma_x_m, sigma_y_m, theta_rad, confidence if known else None)
    if not all(map(math.isfinite, (latitude, longitude, sigma_x_m, sigma_y_m, theta_rad, confidence))):
        raise BadEntry("holds numbers that are not finite")
    return answer


def _seal(key: bytes, numbers: bytes) -> bytes:
    return hashlib.blake2b(key + numbers, digest_size=_SEAL_BYTES).digest()
