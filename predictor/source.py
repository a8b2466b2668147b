"""Where a model comes from: URI → one immutable version → its files, complete, in a local folder.

What belongs here: which kinds of URI there are, and what a URI means now. What does not: how a bucket or a registry is
spoken to, which files make a model (`model_files`), and what is done with them.

URIs come from operators only, never from requests.
"""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from predictor import layout
from predictor.download import filling
from predictor.errors import SourceError
from predictor.mlflow_server import MlflowAccess
from predictor.model_files import copy_model
from predictor.registry_source import ModelReference, Registry
from predictor.s3_source import S3Access, S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from predictor.settings import Settings
    from predictor.store import Store

T = TypeVar("T")

_NOT_A_KEY = re.compile(r"//|/\.{1,2}(/|$)")
"""Keys that name no file of a folder."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model is on this machine.

    Attributes:
        path: A directory, or an .onnx file.
        version: The version to serve it under; None leaves that to the layout of the directory.
    """

    path: Path
    version: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Pinned:
    """A model somewhere else, from which nothing has been fetched yet.

    Attributes:
        store: Its folder, or a folder of version folders.
        model: The name of its .onnx file there, if the URI says so.
        version: Its version, if the URI says so, directly or through an alias.
    """

    store: Store
    model: str | None
    version: str | None


def obtain(settings: Settings, environ: Mapping[str, str]) -> Place:
    """The model that the settings name, fetched if it is not on this machine.

    Raises:
        SourceError: It cannot be fetched, is not there, or is not the version that the settings ask for.
        ArtifactError: The folder holds no model, or more than one.
    """
    uri = settings.model_uri
    if uri is None:
        return Place(settings.model_dir, settings.model_version)
    if _is_moving(uri) and "K_REVISION" in environ and settings.model_digest is None:
        raise SourceError(f"{uri} may change, a Knative revision must not: name models:/NAME/VERSION, or model_digest")

    return within(settings.download_timeout_s, lambda: fetch(resolve(uri, environ), settings), uri)


def resolve(uri: str, environ: Mapping[str, str]) -> Pinned:
    """What the URI means now. Small requests only, so an alias can be followed with it.

    Args:
        uri: `s3://BUCKET/FOLDER`, `s3://BUCKET/…/NAME.onnx` or `models:/…`; see `ModelReference`.
        environ: Says how to get there; see `S3Access` and `MlflowAccess`.

    Raises:
        SourceError: The URI means nothing, or nothing that can be read.
    """
    if uri.startswith("s3://"):
        return _in_bucket(uri, environ)
    if not uri.startswith("models:"):
        raise SourceError(f"{uri} is neither s3://… nor models:/…")
    reference = ModelReference.parse(uri)
    registry = Registry(MlflowAccess.from_environ(environ).client())
    found = registry.resolve(reference)
    if found.files.startswith("mlflow-artifacts:"):
        return Pinned(registry.store(found.files), None, found.version)
    if found.files.startswith("s3://"):
        bucket = _in_bucket(found.files, environ)
        return Pinned(bucket.store, bucket.model, found.version)
    raise SourceError(
        f"the files of version {found.version} of {found.name} lie at {found.files or 'no address'}, which cannot be "
        "read from here: only s3://… and mlflow-artifacts:/… can; let KServe's storageUri fetch them into model_dir"
    )


def fetch(pinned: Pinned, settings: Settings) -> Place:
    """The pinned model, complete, in a folder of its own under the settings' download folder.

    Raises:
        SourceError: It cannot be fetched, or is not the version that the settings ask for.
        ArtifactError: The folder holds no model, or more than one.
    """
    asked = settings.model_version
    if None not in {asked, pinned.version} and asked != pinned.version:
        raise SourceError(f"{settings.model_uri} is version {pinned.version}, but version {asked} was asked for")
    name, version = _choice(pinned, asked)
    folder, _, file = name.rpartition("/")
    with filling(settings.download_dir) as download:
        copy_model(pinned.store, folder, file, download)
        return Place(download.publish(), version)


def _is_moving(uri: str) -> bool:
    return uri.startswith("models:") and ModelReference.parse(uri).version is None


def _in_bucket(uri: str, environ: Mapping[str, str]) -> Pinned:
    parts = urlsplit(uri, allow_fragments=False)
    key = parts.path.strip("/")
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", parts.netloc) or parts.query or _NOT_A_KEY.search(f"/{key}"):
        raise SourceError(f"{uri} is not s3://BUCKET/FOLDER or s3://BUCKET/FOLDER/NAME.onnx")
    folder, _, name = key.rpartition("/") if key.endswith(".onnx") else (key, "", "")
    return Pinned(S3Store(S3Access.from_environ(environ).client(), parts.netloc, folder), name or None, None)


def _choice(pinned: Pinned, asked: str | None) -> layout.Choice:
    version = pinned.version or asked
    if pinned.model is not None:
        return layout.Choice(pinned.model, version or layout.DEFAULT_VERSION)
    return layout.choose(pinned.store.names(), version, pinned.store.where)


def within(seconds: float, work: Callable[[], T], what: str) -> T:
    """The result of `work`, if it comes in time.

    Timeouts of sockets alone are no limit: a server may send a byte now and then, and looking up a name has none. What
    is late goes on in a thread that ends with the process; if it gets to its end it has published a complete folder.

    Raises:
        SourceError: It does not come in time.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that waits
            outcome.set_exception(error)

    Thread(target=run, name="fetch-model", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise SourceError(f"{what} was not fetched within {seconds:g} s") from None
