from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rollout.probe_set import Chunk, ProbeSetError, parse_chunk, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable


def _document() -> dict[str, Any]:
    return {
        "schema": "heimdall.probe-set/1",
        "origin": "made by hand",
        "levels": [0.5, 0.95],
        "latitude": [45.0, 45.1, 45.2],
        "longitude": [7.0, 7.1, 7.2],
        "position": [0, 0, 1],
        "full_scale_dbm": [-50.0, -50.0, -40.0],
        "shape": [2, 5],
        "chunks": [
            {"file": "0000.npz", "captures": 2, "sha256": "aa"},
            {"file": "b.npz", "captures": 1, "sha256": "b"},
        ],
    }


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def test_a_manifest_is_read() -> None:
    """Every member has its place, and the digest is that of the text."""
    data = json.dumps(_document()).encode()
    found = parse_manifest(data)
    assert len(found) == 3
    assert found.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (found.origin, found.levels, found.shape) == ("made by hand", (0.5, 0.95), (2, 5))
    assert found.truth_deg.tolist() == [[45.0, 7.0], [45.1, 7.1], [45.2, 7.2]]
    assert found.position.tolist() == [0, 0, 1]
    assert found.full_scale_dbm.tolist() == [-50.0, -50.0, -40.0]
    assert found.chunks == (Chunk("0000.npz", 2, "aa"), Chunk("b.npz", 1, "b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema="heimdall.probe-set/2"), "not of schema"),
        (lambda d: d.update(surplus=1), "not of schema"),
        (lambda d: d.pop("levels"), "not of schema"),
        (lambda d: d.update(levels=[0.95, 0.5]), "do not increase"),
        (lambda d: d.update(levels=[]), "do not increase"),
        (lambda d: d.update(levels=[0.5, 1.0]), "do not increase"),
        (lambda d: d.update(latitude=[45.0, 45.1, 91.0]), "not on the Earth"),
        (lambda d: d.update(longitude=[7.0, 7.1, float("nan")]), "not on the Earth"),
        (lambda d: d.update(latitude=[45.0], longitude=[7.0]), "one place for each"),
        (lambda d: d.update(latitude=[45.0]), "ValueError"),
        (lambda d: d.update(position=[0]), "position does not"),
        (lambda d: d.update(full_scale_dbm=[0.0]), "full_scale_dbm does not"),
        (lambda d: d.update(full_scale_dbm=[0.0, 0.0, float("inf")]), "not finite"),
        (lambda d: d.update(shape=[7]), "ValueError"),
        (lambda d: d.update(chunks=[]), "no captures"),
        (lambda d: d["chunks"][0].update(captures=0), "chunk without captures"),
        (lambda d: d["chunks"][0].update(captures=51), "more than 50"),
        (lambda d: d["chunks"][0].update(file="../other.npz"), "lies elsewhere"),
        (lambda d: d["chunks"][0].pop("sha256"), "KeyError"),
    ],
)  # fmt: skip
def test_what_a_manifest_must_not_say(change: Callable[[dict[str, Any]], object], says: str) -> None:
    """Each mistake is named, none is guessed at."""
    document = _document()
    change(document)
    if says in {"chunk without captures", "more than 50"}:
        captures = sum(chunk["captures"] for chunk in document["chunks"])
        document |= {name: [1.0] * captures for name in ("latitude", "longitude", "full_scale_dbm")}
        document["position"] = [1] * captures
    with pytest.raises(ProbeSetError, match=says):
        parse_manifest(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"\xff", b"{"])
def test_what_is_no_manifest(data: bytes) -> None:
    """Other files are refused with the same error."""
    with pytest.raises(ProbeSetError, match=r"manifest\.json"):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_npz(iq=np.zeros((2, 2, 5, 2), np.float32)), "has float32"),
        (_npz(iq=np.zeros((1, 2, 5, 2), np.int16)), r"has int16 \[1, 2, 5, 2\]"),
        (_npz(other=np.zeros(1)), "holds no samples"),
        (_npz(iq=np.array([{}], dtype=object)), "holds no samples"),
        (b"PK\x03\x04", "holds no samples"),
        (b"", "holds no samples"),
    ],
    ids=["wrong type", "wrong shape", "another member", "pickled", "half a file", "empty"],
)
def test_what_is_no_chunk(data: bytes, says: str) -> None:
    """A chunk holds exactly what the manifest says, and nothing that could run code."""
    chunk = Chunk("0000.npz", 2, hashlib.sha256(data).hexdigest())
    with pytest.raises(ProbeSetError, match=says):
        parse_chunk(data, chunk, parse_manifest(json.dumps(_document()).encode()))


def test_a_chunk_is_read() -> None:
    """Its samples as they are, if its SHA-256 is the manifest's; else nothing."""
    iq = np.arange(40, dtype=np.int16).reshape(2, 2, 5, 2)
    data, found = _npz(iq=iq), parse_manifest(json.dumps(_document()).encode())
    assert (parse_chunk(data, Chunk("a", 2, hashlib.sha256(data).hexdigest()), found) == iq).all()
    with pytest.raises(ProbeSetError, match="SHA-256"):
        parse_chunk(data, Chunk("a", 2, "0" * 64), found)
