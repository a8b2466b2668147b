"""The layouts of a model folder: which of its files is the model, and in which version.

What belongs here: the choice, from names alone, so that folders on disk, in a bucket and in a registry follow one rule.
What does not: listing a folder, or reading a file.

Layouts: `model.onnx`; `VERSION/model.onnx` with numeric versions, of which the highest is served unless one is asked
for; and in each folder one other `*.onnx` in place of `model.onnx`.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from predictor.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Collection

MODEL_FILE = "model.onnx"
CONTRACT_FILE = "contract.json"
DEFAULT_VERSION = "1"
"""The version of a model in a folder that names none."""

_MODEL = re.compile(r"(?:(?P<version>[0-9]+)/)?(?P<file>[^/]+\.onnx)")


class Choice(NamedTuple):
    """The model of a folder: its name relative to the folder, and the version it is served under."""

    name: str
    version: str


def choose(names: Collection[str], version: str | None, where: str) -> Choice:
    """The model among the files of a folder.

    Args:
        names: Names relative to the folder, with `/`; those that no layout knows are passed over.
        version: The version to serve; None leaves the choice to the layout.
        where: What the messages call the folder.

    Raises:
        ArtifactError: There is no such model, or more than one.
    """
    files = _by_folder(names)
    versions = sorted(files.keys() - {""}, key=int)
    if version in versions:
        return Choice(_model_of(version, files, where), version)
    if "" in files:
        flat = _model_of("", files, where)
        if versions and version is None:
            raise ArtifactError(f"{where} holds {flat} and also versions: {', '.join(versions)}; say which version")
        return Choice(flat, version or DEFAULT_VERSION)
    if not versions:
        raise ArtifactError(f"{where} holds neither {MODEL_FILE} nor VERSION/{MODEL_FILE}")
    if version is not None:
        raise ArtifactError(f"{where} has no version {version}; it has {', '.join(versions)}")
    return Choice(_model_of(versions[-1], files, where), versions[-1])


def _by_folder(names: Collection[str]) -> dict[str, list[str]]:
    """The .onnx files of each version folder, and under the empty name those of the folder itself."""
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_MODEL.fullmatch, names)):
        found.setdefault(match["version"] or "", []).append(match["file"])
    return found


def _model_of(version: str, files: dict[str, list[str]], where: str) -> str:
    """`model.onnx`, or the only other .onnx file."""
    several = sorted(files[version])
    if MODEL_FILE not in several and len(several) > 1:
        raise ArtifactError(f"{where} holds several models ({', '.join(several)}) and no {MODEL_FILE}")
    return posixpath.join(version, MODEL_FILE if MODEL_FILE in several else several[0])
