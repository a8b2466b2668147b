"""A model's files on disk: which one is served, in which version, and what exactly its bytes are.

What belongs here: finding them, and their digest. What does not: fetching the files, and reading them as ONNX, which is
the runtime's business. A model's place is a directory in one of the layouts of `layout`, or the path of an .onnx file.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from predictor import external_data
from predictor.errors import ArtifactError
from predictor.layout import CONTRACT_FILE, DEFAULT_VERSION, choose

if TYPE_CHECKING:
    from pathlib import Path


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
        model_dir: A directory in one of the layouts, or an .onnx file.
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
    choice = choose(_names(model_dir), version, str(model_dir))
    path = model_dir / choice.name
    _refuse_escape(model_dir, path)
    return path, choice.version


def _names(model_dir: Path) -> list[str]:
    """The .onnx files of the directory and of the folders in it."""
    found = (path for pattern in ("*.onnx", "*/*.onnx") for path in model_dir.glob(pattern) if path.is_file())
    return [path.relative_to(model_dir).as_posix() for path in found]


def versions_in(model_dir: Path) -> list[str]:
    """The version folders of a directory that hold a model, in the order of their numbers."""
    folders = {name.partition("/")[0] for name in _names(model_dir) if "/" in name}
    return sorted((folder for folder in folders if folder.isdecimal()), key=int)


def fingerprint(model_dir: Path) -> tuple[object, ...]:
    """What changes when a file of the model does, without reading any: for looking often."""
    paths = [model_dir] if model_dir.is_file() else sorted(path for path in model_dir.rglob("*") if path.is_file())
    stats = [(path, path.stat()) for path in paths]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in stats)


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
    beside = {name: path.parent / name for name in external_data.names_in(path)}
    files = {path.name: path} | {name: file for name, file in beside.items() if file.is_file()}
    if len(files) == 1:
        return "sha256:" + _sha256(path)
    lines = sorted(f"{name}\0{_sha256(file)}\n" for name, file in files.items())
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
