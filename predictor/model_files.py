"""Which files of a folder make a model, and copying them.

What belongs here: the .onnx file, `contract.json` beside it, and the external data that the model names. What does not:
where the folder is, and what it is copied to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from predictor import external_data, layout
from predictor.errors import SourceError
from predictor.store import persistently

if TYPE_CHECKING:
    from predictor.download import Download
    from predictor.store import RemoteFile, Store


def copy_model(store: Store, folder: str, file: str, download: Download) -> None:
    """The model, its contract and its external data, with names relative to the model's folder.

    Args:
        store: Where they lie.
        folder: The model's folder in the store, without `/` at its end; empty for the store's root.
        file: The name of the .onnx file in it.
        download: Where they go.

    Raises:
        SourceError: There is no such model, or it cannot be read.
    """
    beside = f"{folder}/" if folder else ""
    model = store.find(beside + file)
    if model is None:
        raise SourceError(f"{store.where}/{beside}{file} does not exist")
    _copy(store, model, file, download)
    others = external_data.names_in(download.folder / file) | {layout.CONTRACT_FILE}
    for name in sorted(others - {file}):
        found = store.find(beside + name)
        if found is not None:
            _copy(store, found, name, download)


def copy_files(store: Store, download: Download) -> None:
    """Everything in the store, for a folder of versions of which the predictor chooses.

    Raises:
        SourceError: There is nothing, or it cannot be read.
    """
    names = sorted(store.names())
    if not names:
        raise SourceError(f"{store.where} does not exist")
    for name in names:
        found = store.find(name)
        if found is not None:
            _copy(store, found, name, download)


def _copy(store: Store, found: RemoteFile, name: str, download: Download) -> None:
    persistently(lambda: download.write(name, store.read(found), found.size_bytes))
