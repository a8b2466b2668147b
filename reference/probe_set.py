"""A probe set: simulated captures with their truth, in the files that a release's test reads (docs/verdict.md).

What belongs here: conversion to INT16, and writing the files to a folder or a bucket. What does not: drawing captures
(`simulate`).

Each capture has a full scale of its own, in steps of 10 dB from the contract's on, as a receiver with automatic gain
has: the smallest at which no sample clips. One sample in INT16 carries quantisation noise of 2/12 units², which at
the contract's −50 dBm is −148 dBm, far below the receivers' −121 dBm.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from reference.errors import ReferenceFailed
from reference.estimates import LEVELS
from reference.simulate import FRAME, RADIO, blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reference.arrays import F32, F64

SCHEMA = "heimdall.probe-set/1"
MANIFEST = "manifest.json"

_STEP_DB = 10.0
_LARGEST, _UNIT = 32_767.0, 32_768.0
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 5.0, 60.0


class Folder(Protocol):
    """Where files are written to."""

    def write(self, name: str, data: bytes) -> None:
        """A whole file; raises `ReferenceFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine, made when the first file is written."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        """A whole file; raises `ReferenceFailed`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fresh = self.path / f".new.{name}"
            fresh.write_bytes(data)
            fresh.replace(self.path / name)
        except OSError as error:
            raise ReferenceFailed(f"{self.path / name}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class BucketFolder:
    """A prefix of a bucket; reached as boto3's environment says (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and others)."""

    client: Any
    bucket: str
    prefix: str

    def write(self, name: str, data: bytes) -> None:
        """A whole file; raises `ReferenceFailed`."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - see `open_folder`

        key = f"{self.prefix}/{name}" if self.prefix else name
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        except (BotoCoreError, ClientError) as error:
            raise ReferenceFailed(f"s3://{self.bucket}/{key}: {error}") from error


def open_folder(place: str) -> Folder:
    """The folder `s3://BUCKET/PREFIX` or a path; raises `ReferenceFailed`."""
    parts = urlsplit(place)
    if parts.scheme != "s3":
        return LocalFolder(Path(place))
    try:
        import boto3  # noqa: PLC0415 - half a second, for buckets alone
        from botocore.config import Config  # noqa: PLC0415 - comes with boto3
    except ImportError as error:
        raise ReferenceFailed("s3:// needs boto3, which is not installed: write to a folder, or add it") from error
    config = Config(connect_timeout=_CONNECT_TIMEOUT_S, read_timeout=_READ_TIMEOUT_S)
    try:
        return BucketFolder(boto3.client("s3", config=config), parts.netloc, parts.path.strip("/"))
    except ValueError as error:
        raise ReferenceFailed(f"{place}: {error}") from error


def write_probe_set(folder: Folder, cases: int, seed: int) -> str:
    """Draw captures and write them, block by block and the manifest last; returns the set's digest."""
    truth, full_scale, chunks = [], [], []
    for index, block in enumerate(blocks(seed, cases)):
        codes, full_scale_dbm = to_int16(block.iq)
        file = io.BytesIO()
        np.savez(file, iq=codes)
        data, name = file.getvalue(), f"{index:04d}.npz"
        folder.write(name, data)
        chunks.append({"file": name, "captures": len(codes), "sha256": hashlib.sha256(data).hexdigest()})
        truth.append(block.position_deg)
        full_scale.append(full_scale_dbm)
    text = _manifest(seed, np.concatenate(truth), np.concatenate(full_scale), chunks)
    folder.write(MANIFEST, text.encode())
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def to_int16(iq: F32) -> tuple[NDArray[np.int16], F64]:
    """Samples [K,R,N,2] of the contract's full scale as INT16 of a full scale of their own.

    Returns:
        INT16 [K,R,N,2], and the full scale [K] in dBm.
    """
    peak = np.abs(iq).max(axis=(1, 2, 3)).astype(np.float64) * (_UNIT / _LARGEST)
    steps = np.maximum(np.ceil(20.0 * np.log10(np.maximum(peak, np.finfo(np.float64).tiny)) / _STEP_DB), 0.0)
    factor = _UNIT * 10.0 ** (-_STEP_DB * steps / 20.0)
    codes = np.rint(iq * factor[:, None, None, None]).astype(np.int16)
    return codes, RADIO.full_scale_dbm + _STEP_DB * steps


def _manifest(seed: int, truth_deg: F64, full_scale_dbm: F64, chunks: list[dict[str, Any]]) -> str:
    """The manifest's text: every number of it is written such that it reads back the same."""
    document = {
        "schema": SCHEMA,
        "origin": f"simulated by python -m reference probe-set --captures {len(truth_deg)} --seed {seed}",
        "levels": list(LEVELS),
        "latitude": truth_deg[:, 0].tolist(),
        "longitude": truth_deg[:, 1].tolist(),
        "position": list(range(len(truth_deg))),
        "full_scale_dbm": full_scale_dbm.tolist(),
        "shape": [len(FRAME.receivers), RADIO.samples],
        "chunks": chunks,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
