"""Models in an MLflow registry.

What belongs here: `models:/…` → one version → where its files lie, and the files that MLflow itself hands out. What
does not: HTTP, and files in a bucket, which are read from there without MLflow.

Of MLflow's REST API 2.0 (mlflow.org, "REST API") these are all that is needed:

    registered-models/alias, registered-models/get-latest-versions, model-versions/get   which version
    model-versions/get-download-uri, logged-models/ID                                    where its files lie
    mlflow-artifacts/artifacts                                                           the files themselves
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from predictor.errors import SourceError
from predictor.mlflow_server import asked, refuse_error, translated
from predictor.store import MAX_FILES, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import httpx

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_REFERENCE = re.compile(r"models:/(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<last>[^/:@]+))")
_LOGGED_MODEL = re.compile(r"models:/(?P<id>m-[0-9a-zA-Z-]+)")


@dataclass(frozen=True, slots=True)
class ModelReference:
    """`models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/NAME/STAGE`; just one of the last three is set."""

    name: str
    alias: str | None = None
    version: str | None = None
    stage: str | None = None

    @classmethod
    def parse(cls, uri: str) -> ModelReference:
        """Read a URI.

        Raises:
            SourceError: It is none of the three.
        """
        match = _REFERENCE.fullmatch(uri)
        if match is None or (match["last"] or "").lower() == "latest":
            raise SourceError(
                f"{uri}: a registered model is models:/NAME@ALIAS, models:/NAME/VERSION or models:/NAME/STAGE; "
                "a logged model (models:/m-…) has no version, and 'latest' is whatever was registered last"
            )
        name, alias, last = match.groups()
        if last is None:
            return cls(name, alias=alias)
        return cls(name, version=last) if last.isdecimal() else cls(name, stage=last)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a registered model.

    Attributes:
        name: The registered model's name.
        version: Its number.
        files: Where its files lie: `s3://…` or `mlflow-artifacts:/…`.
    """

    name: str
    version: str
    files: str


class Registry:
    """An MLflow server.

    Args:
        client: Made by `MlflowAccess`.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def resolve(self, reference: ModelReference) -> RegisteredVersion:
        """The one version that is meant now, and where its files lie.

        Raises:
            SourceError: There is no such model, version, alias or stage, or it is not ready.
        """
        found = self._version(reference)
        version = str(found.get("version", ""))
        if not version.isdecimal() or found.get("status", "READY") != "READY":
            raise SourceError(f"version {version} of {reference.name} is {found.get('status')} in the registry")
        which = {"name": reference.name, "version": version}
        files = str(self._ask("model-versions/get-download-uri", which).get("artifact_uri", ""))
        logged = _LOGGED_MODEL.fullmatch(files)
        if logged:
            files = self._files_of_logged(logged["id"])
        return RegisteredVersion(reference.name, version, files)

    def store(self, files: str) -> ArtifactStore:
        """The folder that `mlflow-artifacts:/…` means on this server.

        Raises:
            SourceError: It means another server's, which credentials must not be sent to.
        """
        uri, own = urlsplit(files), self._client.base_url.netloc.decode()
        if uri.netloc not in {"", own}:
            raise SourceError(f"the files lie at {files}, on another server than MLFLOW_TRACKING_URI, {own}")
        return ArtifactStore(self._client, uri.path.strip("/"))

    def _version(self, reference: ModelReference) -> dict[str, Any]:
        if reference.alias is not None:
            which = {"name": reference.name, "alias": reference.alias}
            return _member(self._ask("registered-models/alias", which), "model_version")
        if reference.version is not None:
            which = {"name": reference.name, "version": reference.version}
            return _member(self._ask("model-versions/get", which), "model_version")
        which = {"name": reference.name, "stages": reference.stage or ""}
        found = self._ask("registered-models/get-latest-versions", which).get("model_versions") or ()
        if not found:
            raise SourceError(f"no version of {reference.name} is in the stage {reference.stage}")
        return max(found, key=lambda one: int(one["version"]))

    def _files_of_logged(self, model_id: str) -> str:
        model = _member(self._ask(f"logged-models/{model_id}", {}), "model")
        return str(_member(model, "info").get("artifact_uri", ""))

    def _ask(self, path: str, which: Mapping[str, str]) -> dict[str, Any]:
        return asked(self._client, f"{_API}/{path}", which)


class ArtifactStore:
    """A folder that the MLflow server hands out itself (`mlflow-artifacts:/…`).

    Args:
        client: Of the server.
        folder: Its path.
    """

    def __init__(self, client: httpx.Client, folder: str) -> None:
        self._client = client
        self._folder = folder

    @property
    def where(self) -> str:
        """The folder's URI."""
        return f"mlflow-artifacts:/{self._folder}"

    def names(self) -> Collection[str]:
        """See `Store`."""
        return [file.name for file in self._files()]

    def find(self, name: str) -> RemoteFile | None:
        """See `Store`."""
        folder = name.rpartition("/")[0]
        return next((one for one, is_folder in self._listing(folder) if one.name == name and not is_folder), None)

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """See `Store`; MLflow has nothing that tells whether a file has changed, but the versions it keeps do not."""
        path = quote(f"{_ARTIFACTS}/{self._folder}/{file.name}")
        with translated(f"{self.where}/{file.name}"), self._client.stream("GET", path) as answer:
            if answer.is_error:
                answer.read()
            refuse_error(answer)
            yield from answer.iter_raw()

    def _files(self) -> list[RemoteFile]:
        """All files, folder by folder."""
        files: list[RemoteFile] = []
        folders = [""]
        while folders:
            for one, is_folder in self._listing(folders.pop()):
                (folders.append(one.name) if is_folder else files.append(one))
                if len(files) + len(folders) > MAX_FILES:
                    raise SourceError(f"{self.where} holds more than {MAX_FILES} files")
        return files

    def _listing(self, folder: str) -> list[tuple[RemoteFile, bool]]:
        """The entries of one folder, and whether each is a folder; the server gives the last part of their names."""
        found = asked(self._client, _ARTIFACTS, {"path": f"{self._folder}/{folder}".rstrip("/")}).get("files") or ()
        entries = []
        for one in found:
            size = one.get("file_size")
            name = f"{folder}/{one['path']}".lstrip("/")
            entries.append((RemoteFile(name, None if size is None else int(size)), bool(one.get("is_dir"))))
        return entries


def _member(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    if not isinstance(value, dict):
        raise SourceError(f"MLflow's answer has no '{name}': is MLFLOW_TRACKING_URI really an MLflow server?")
    return value
