from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from predictor import artifact
from predictor.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("files", "asked", "served", "version"),
    [
        (["model.onnx"], None, "model.onnx", "1"),
        (["model.onnx"], "7", "model.onnx", "7"),
        (["other.onnx"], None, "other.onnx", "1"),
        (["model.onnx", "other.onnx"], None, "model.onnx", "1"),
        (["2/model.onnx", "10/model.onnx", "9/model.onnx"], None, "10/model.onnx", "10"),
        (["2/model.onnx", "10/model.onnx"], "2", "2/model.onnx", "2"),
        (["3/net.onnx", "draft/model.onnx", "4/readme.txt"], None, "3/net.onnx", "3"),
        (["model.onnx", "2/model.onnx"], "2", "2/model.onnx", "2"),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], asked: str | None, served: str, version: str) -> None:
    """Every layout of the module's docstring finds its model; versions are compared as numbers."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = artifact.find(tmp_path, asked)
    assert (found.path, found.version) == (tmp_path / served, version)
    assert found.model_digest == "sha256:" + _sha256(served.encode())


def test_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    """The path of an .onnx file is served as it is."""
    (tmp_path / "a.onnx").write_text("a")
    (tmp_path / "b.onnx").write_text("b")
    assert artifact.find(tmp_path / "a.onnx").path == tmp_path / "a.onnx"


@pytest.mark.parametrize(
    ("files", "asked", "reason"),
    [
        ([], None, "holds neither"),
        (["readme.txt"], "2", "holds neither"),
        (["2/model.onnx", "10/model.onnx"], "3", "has no version 3; it has 2, 10"),
        (["a.onnx", "b.onnx"], None, r"several models \(a.onnx, b.onnx\)"),
        (["model.onnx", "2/model.onnx"], None, "also versions: 2; say which"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, files: list[str], asked: str | None, reason: str) -> None:
    """A missing or ambiguous model is refused with what there is instead."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with pytest.raises(ArtifactError, match=reason):
        artifact.find(tmp_path, asked)


def test_no_directory(tmp_path: Path) -> None:
    """A directory that is not there is named."""
    with pytest.raises(ArtifactError, match=r"there is no model directory .*nowhere"):
        artifact.find(tmp_path / "nowhere")


def test_another_digest_is_refused_with_both(tmp_path: Path) -> None:
    """A model that is not the one announced is never served; the message holds both digests."""
    (tmp_path / "model.onnx").write_text("a")
    own, other = "sha256:" + _sha256(b"a"), "sha256:" + _sha256(b"b")
    assert artifact.find(tmp_path, expected_digest=own).model_digest == own
    with pytest.raises(ArtifactError, match=f"{own}, but {other}"):
        artifact.find(tmp_path, expected_digest=other)


def test_contract_beside_the_model(tmp_path: Path) -> None:
    """`contract.json` is read from the folder of the version that is served."""
    (tmp_path / "2").mkdir()
    (tmp_path / "2/model.onnx").touch()
    (tmp_path / "contract.json").write_text("of nothing")
    assert artifact.find(tmp_path).contract_json is None
    (tmp_path / "2/contract.json").write_text("{}")
    assert artifact.find(tmp_path).contract_json == "{}"
    (tmp_path / "2/contract.json").write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.find(tmp_path)


def test_symbolic_links(tmp_path: Path) -> None:
    """Links within the directory, as Kubernetes mounts have them, are followed; one that leaves it is refused."""
    (tmp_path / "outside.onnx").touch()
    directory = tmp_path / "mount"
    (directory / "..data").mkdir(parents=True)
    (directory / "..data/model.onnx").touch()
    (directory / "model.onnx").symlink_to("..data/model.onnx")
    (tmp_path / "link").symlink_to(directory)
    assert artifact.find(tmp_path / "link").path == tmp_path / "link/model.onnx"
    (directory / "model.onnx").unlink()
    (directory / "model.onnx").symlink_to("../outside.onnx")
    with pytest.raises(ArtifactError, match="leaves"):
        artifact.find(directory)


@pytest.mark.parametrize("location", ["w.bin", "data/w.bin", "./data/../w.bin", "d" * 120 + "/" + "w" * 120])
def test_digest_covers_external_data(tmp_path: Path, write_model: Callable[..., Path], location: str) -> None:
    """The digest of a model with external data is that of the sorted list of its files, and changes with each."""
    model = write_model("external", tmp_path / "model.onnx", location)
    (tmp_path / "data").mkdir()
    weights = (tmp_path / location).resolve()
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"\0" * 12)
    name = str(weights.relative_to(tmp_path))
    lines = sorted([f"model.onnx\0{_sha256(model.read_bytes())}\n", f"{name}\0{_sha256(bytes(12))}\n"])
    assert artifact.digest_of(model) == "sha256:" + _sha256("".join(lines).encode())
    before = artifact.digest_of(model)
    weights.write_bytes(b"\1" * 12)
    assert artifact.digest_of(model) != before


def test_external_data_as_the_onnx_package_writes_it(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A foreign writer: the entry is found where `onnx.save` puts it, with offset and length after it."""
    model = onnx.load(write_model("row", tmp_path / "plain.onnx"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    both = sorted(f"{name}\0{_sha256((tmp_path / name).read_bytes())}\n" for name in ("model.onnx", "weights"))
    assert artifact.digest_of(path) == "sha256:" + _sha256("".join(both).encode())


def test_metadata_called_location_is_no_file(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A metadata entry with the key `location` does not make the digest one of several files."""
    model = write_model("identity", tmp_path / "model.onnx", props={"location": "Torino"})
    assert artifact.digest_of(model) == "sha256:" + _sha256(model.read_bytes())


def test_a_large_file_is_hashed_whole(tmp_path: Path) -> None:
    """Streaming reads every byte."""
    content = np.random.default_rng(1).bytes(3_000_001)
    (tmp_path / "model.onnx").write_bytes(content)
    assert artifact.digest_of(tmp_path / "model.onnx") == "sha256:" + _sha256(content)
