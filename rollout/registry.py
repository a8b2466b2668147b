"""Versions of registered models, by MLflow's own client.

What belongs here: an alias, a stage or a number → one version and where its files lie; aliases and tags of it. What
does not: its files (`artifact`).

Environment: MLFLOW_TRACKING_URI and MLflow's other variables. Its timeout for a request is 120 s with 7 retries unless
MLFLOW_HTTP_REQUEST_TIMEOUT and MLFLOW_HTTP_REQUEST_MAX_RETRIES say otherwise; here 10 s and 2 are the defaults.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient

TAG = "heimdall.rollout."
REJECTED = "rejected"
REJECTED_TAG = f"{TAG}{REJECTED}"
CHAMPION, CHALLENGER = "champion", "challenger"

_DEFAULTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<last>[^/:@]+))")
_ALIAS = re.compile(r"[^/:@]+")
_LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-zA-Z-]+)")
_LONGEST_TAG = 5_000
"""In characters: a reason of some lines. MLflow itself allows 100,000."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One version of a registered model by alias, number or stage; just one of the last three is set."""

    name: str
    alias: str = ""
    version: str = ""
    stage: str = ""

    @classmethod
    def parse(cls, text: str, name: str) -> Reference:
        """Read `models:/NAME@ALIAS`, `…/VERSION`, `…/STAGE`, or an alias or a number of the model `name`.

        Raises:
            RegistryError: It is none of these.
        """
        if match := _REFERENCE.fullmatch(text):
            name, alias, last = match.groups(default="")
            return cls(name, alias, *((last, "") if last.isdecimal() else ("", last)))
        if _ALIAS.fullmatch(text):
            return cls(name, version=text) if text.isdecimal() else cls(name, alias=text)
        raise RegistryError(
            f"'{text}' names no version: give an alias, a number, or models:/NAME@ALIAS, models:/NAME/VERSION or "
            "models:/NAME/STAGE"
        )


@dataclass(frozen=True, slots=True)
class Registered:
    """One version as the registry knows it.

    Attributes:
        name: The registered model's.
        version: Its number.
        source: Where its files lie, as a URI.
        run_id: Of its training; may be empty.
        tags: Of the version.
        metrics: Of its training.
    """

    name: str
    version: str
    source: str
    run_id: str
    tags: Mapping[str, str]
    metrics: tuple[tuple[str, float], ...]


class Registry:
    """An MLflow server.

    Args:
        client: Of it.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> Registry:
        """The server of MLFLOW_TRACKING_URI; raises `RegistryError` if the variable is not set."""
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise RegistryError("MLFLOW_TRACKING_URI is not set: it names the model registry")
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415 - takes a second, which commands without a registry are spared

        return cls(MlflowClient())

    def resolve(self, reference: Reference) -> Registered:
        """The version that is meant now; raises `RegistryError`."""
        with _translated(f"{reference.name} in the registry"):
            found = self._version(reference)
            if found.status != "READY":
                raise RegistryError(f"version {found.version} of {found.name} is {found.status} in the registry")
            source = self._client.get_model_version_download_uri(found.name, found.version)
            if logged := _LOGGED_MODEL.fullmatch(source):
                source = self._client.get_logged_model(logged[1]).artifact_location
            metrics = self._metrics(found)
            return Registered(found.name, str(found.version), source, found.run_id or "", dict(found.tags), metrics)

    def version_of_alias(self, name: str, alias: str) -> str:
        """The number that an alias stands for; empty if there is no such alias."""
        with _translated(f"{name} in the registry"):
            found: Mapping[str, str] = self._client.get_registered_model(name).aliases
            return str(found.get(alias, ""))

    def move_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias stand for this version from now on."""
        with _translated(f"alias {alias} of {name}"):
            self._client.set_registered_model_alias(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias stand for no version any more."""
        with _translated(f"alias {alias} of {name}"):
            self._client.delete_registered_model_alias(name, alias)

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, `heimdall.rollout.` before each name."""
        with _translated(f"tags of version {version} of {name}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, f"{TAG}{key}", value[:_LONGEST_TAG])

    def untag(self, name: str, version: str, key: str) -> None:
        """Remove such a tag; one that is not there is fine."""
        with _translated(f"tags of version {version} of {name}"):
            if f"{TAG}{key}" in self._client.get_model_version(name, version).tags:
                self._client.delete_model_version_tag(name, version, f"{TAG}{key}")

    def _version(self, reference: Reference) -> Any:  # noqa: ANN401 - mlflow ships no types
        if reference.alias:
            return self._client.get_model_version_by_alias(reference.name, reference.alias)
        if reference.version:
            return self._client.get_model_version(reference.name, reference.version)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are old, and still in use
            found = self._client.get_latest_versions(reference.name, [reference.stage])
        if not found:
            raise RegistryError(f"no version of {reference.name} is in the stage {reference.stage}")
        return max(found, key=lambda one: int(one.version))

    def _metrics(self, found: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401 - mlflow ships no types
        """Of the version's training run, those that are numbers; the registry may outlive the run."""
        if not found.run_id:
            return ()
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

        try:
            metrics = self._client.get_run(found.run_id).data.metrics
        except MlflowException:
            return ()
        finite = ((str(name), float(value)) for name, value in metrics.items() if math.isfinite(value))
        return tuple(sorted(finite))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

    try:
        yield
    except MlflowException as error:
        first_line = str(error).strip().partition("\n")[0]
        raise RegistryError(f"{what}: {first_line}") from error
