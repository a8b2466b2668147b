"""The layouts of a model folder: which of its files is the model, and in which version.

What belongs here: the choice, from names alone, so that a folder on disk, in a bucket and in a registry follow one rule.
What does not: listing a folder, or reading a file.

Layouts: `model.onnx`; `VERSION/model.onnx` with numeric versions, of which the highest is served unless one is asked
for; and in each folder one other `*.onnx` in place of `model.onnx`.
"""

from __future__ import annotations

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
    versions = _by_version(names, where)
    flat = versions.pop(None, None)
    if version is not None and version in versions:
        return Choice(versions[version], version)
    listed = ", ".join(sorted((one for one in versions if one), key=int))
    if flat is not None and versions and version is None:
        raise ArtifactError(f"{where} holds {flat} and also versions: {listed}; say which version")
    if flat is not None:
        return Choice(flat, version or DEFAULT_VERSION)
    if not versions:
        raise ArtifactError(f"{where} holds neither {MODEL_FILE} nor VERSION/{MODEL_FILE}")
    if version is not None:
        raise ArtifactError(f"{where} has no version {version}; it has {listed}")
    highest = max((one for one in versions if one), key=int)
    return Choice(versions[highest], highest)


def _by_version(names: Collection[str], where: str) -> dict[str | None, str]:
    """The model of each version folder that holds one, and under None that of the folder itself."""
    found: dict[str | None, list[str]] = {}
    for match in filter(None, map(_MODEL.fullmatch, names)):
        found.setdefault(match["version"], []).append(match["file"])
    return {version: _model_of(files, version, where) for version, files in found.items()}


def _model_of(files: list[str], version: str | None, where: str) -> str:
    """`model.onnx`, or the only other .onnx file."""
    folder = f"{version}/" if version else ""
    if MODEL_FILE not in files and len(files) > 1:
        raise ArtifactError(f"{where}/{folder} holds several models ({', '.join(sorted(files))}) and no {MODEL_FILE}")
    return folder + (MODEL_FILE if MODEL_FILE in files else files[0])
