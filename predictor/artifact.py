"""A model's files on disk: which one is served, in which version, and what exactly its bytes are.

What belongs here: the layouts of a model directory and the digest. What does not: fetching the files, and reading them
as ONNX, which is the runtime's business.

Layouts: `DIR/model.onnx`; `DIR/VERSION/model.onnx` with numeric versions, of which the highest is served unless one is
asked for; one other `*.onnx` in place of `model.onnx`; or DIR is itself the path of an .onnx file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from predictor.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

MODEL_FILE = "model.onnx"
CONTRACT_FILE = "contract.json"
DEFAULT_VERSION = "1"
"""The version of a model in a directory that names none."""

_LOCATION = re.compile(rb"\x0a\x08location\x12")
"""How `StringStringEntryProto(key="location", value=…)` begins on the wire (onnx.proto, TensorProto.external_data):
field 1 of length 8, the key, then the tag of field 2, whose length and text follow."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One immutable version of a model.

    Attributes:
        path: The .onnx file.
        version: The version it is served under.
        model_digest: `sha256:…` of the file; see `digest_of` for models with external data.
        contract_json: The text of `contract.json` beside the model, which overrides the contract inside it.
    """

    path: Path
    version: str
    model_digest: str
    contract_json: str | None = None


def find(model_dir: Path, version: str | None = None, expected_digest: str | None = None) -> Artifact:
    """The artifact to serve.

    Args:
        model_dir: A directory in one of the layouts above, or an .onnx file.
        version: The version to serve; None leaves the choice to the layout.
        expected_digest: What `model_digest` has to be; None accepts anything.

    Raises:
        ArtifactError: There is no such model, more than one, one outside the directory, or one of another digest.
    """
    try:
        path, found_version = _locate(model_dir, version)
        model_digest = digest_of(path)
        contract_json = _read_contract(path.with_name(CONTRACT_FILE))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the model in {model_dir} cannot be read: {error}") from error
    if expected_digest not in {None, model_digest}:
        raise ArtifactError(f"{path} has the digest {model_digest}, but {expected_digest} was asked for")
    return Artifact(path, found_version, model_digest, contract_json)


def _locate(model_dir: Path, version: str | None) -> tuple[Path, str]:
    if model_dir.suffix == ".onnx" and model_dir.is_file():
        return model_dir, version or DEFAULT_VERSION
    if not model_dir.is_dir():
        raise ArtifactError(f"there is no model directory {model_dir}")
    path, found_version = _in_directory(model_dir, version)
    _refuse_escape(model_dir, path)
    return path, found_version


def _in_directory(model_dir: Path, version: str | None) -> tuple[Path, str]:
    versions = _versions(model_dir)
    if version in versions:
        return versions[version], version
    flat = _model_in(model_dir)
    if flat is not None and versions and version is None:
        raise ArtifactError(f"{model_dir} holds {flat.name} and also versions: {_listed(versions)}; say which version")
    if flat is not None:
        return flat, version or DEFAULT_VERSION
    if not versions:
        raise ArtifactError(f"{model_dir} holds neither {MODEL_FILE} nor VERSION/{MODEL_FILE}")
    if version is not None:
        raise ArtifactError(f"{model_dir} has no version {version}; it has {_listed(versions)}")
    highest = max(versions, key=int)
    return versions[highest], highest


def _versions(model_dir: Path) -> dict[str, Path]:
    """The model of each numeric version folder that holds one."""
    folders = (entry for entry in model_dir.iterdir() if re.fullmatch(r"[0-9]+", entry.name) and entry.is_dir())
    models = {folder.name: _model_in(folder) for folder in folders}
    return {version: path for version, path in models.items() if path is not None}


def _listed(versions: dict[str, Path]) -> str:
    return ", ".join(sorted(versions, key=int))


def _model_in(folder: Path) -> Path | None:
    """`model.onnx`, or the only other .onnx file, or None."""
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE
    others = sorted(folder.glob("*.onnx"))
    if len(others) > 1:
        raise ArtifactError(f"{folder} holds several models ({', '.join(p.name for p in others)}) and no {MODEL_FILE}")
    return others[0] if others else None


def _refuse_escape(model_dir: Path, path: Path) -> None:
    """Symbolic links inside the directory are fine (Kubernetes mounts are made of them) unless they lead out of it.

    Only the comparison uses resolved paths: a modelcar's /mnt/models is a link into another process's root
    (/proc/PID/root/models), which resolves to a path that does not exist here.
    """
    if not os.path.realpath(path).startswith(os.path.realpath(model_dir) + os.sep):
        raise ArtifactError(f"{path} is a symbolic link that leaves {model_dir}")


def _read_contract(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def digest_of(path: Path) -> str:
    r"""`sha256:…` of a model.

    Of a model in one file: SHA-256 of its bytes. With external data: SHA-256 of the sorted lines
    `RELATIVE-PATH\0HEX\n`, one per file, the model's own included.
    """
    files = {path.name: path} | {name: path.parent / name for name in _external_data(path)}
    if len(files) == 1:
        return "sha256:" + _sha256(path)
    lines = sorted(f"{name}\0{_sha256(file)}\n" for name, file in files.items())
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _external_data(path: Path) -> set[str]:
    """The files beside the model that it names as its external data.

    Found by the wire form of the entry rather than by parsing, which would need the `onnx` package. A metadata entry
    that happens to be called `location` names no file and drops out. The runtime itself refuses locations that are
    absolute, missing, or outside the model's folder.
    """
    if path.stat().st_size == 0:
        return set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = {_delimited(content, match.end()) for match in _LOCATION.finditer(content)}
    normal = {os.path.normpath(name) for name in names if name and not name.startswith(("/", ".."))}
    return {name for name in normal if (path.parent / name).is_file()}


def _delimited(content: mmap.mmap, start: int) -> str:
    """The text after a varint length of at most two bytes (paths are shorter than 16,384 bytes)."""
    head = content[start : start + 2]
    length, width = (head[0], 1) if head[0] < 0x80 else ((head[0] & 0x7F) | head[1] << 7, 2)  # noqa: PLR2004 - varint
    return content[start + width : start + width + length].decode(errors="replace")
