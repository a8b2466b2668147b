"""How an MLflow server is spoken to.

What belongs here: access by MLflow's own names in the environment, and one question with its answer. What does not:
what is asked; see `registry_source`.

Its own client would need no less code, but 3 s of CPU to import, 150 MB of memory, and a thread of telemetry.
"""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx

from predictor.errors import SourceError
from predictor.store import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Interrupted, persistently

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BUSY = {429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed; MLflow answers 500 when its own storage fails."""


@dataclass(frozen=True, slots=True)
class MlflowAccess:
    """How the server is reached.

    Attributes:
        tracking_uri: Base URL of the MLflow server, without credentials and without a `/` at its end.
        username: For HTTP basic authentication.
        password: Its password.
        token: For bearer authentication, if there is no user name.
        verify: Whether certificates are checked, or the file with the authorities to check them by.
    """

    tracking_uri: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    verify: bool | str = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> MlflowAccess:
        """What the environment says; empty variables count as missing.

        Raises:
            SourceError: There is no MLFLOW_TRACKING_URI, or it is not the address of a server.
        """
        given = {name: text for name, text in environ.items() if text}
        uri = urlsplit(given.get("MLFLOW_TRACKING_URI", ""))
        if uri.scheme not in {"http", "https"} or not uri.hostname:
            raise SourceError("models:/ needs MLFLOW_TRACKING_URI, the http:// or https:// address of an MLflow server")
        insecure = given.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"1", "true"}
        return cls(
            tracking_uri=uri._replace(netloc=uri.netloc.rpartition("@")[2]).geturl().rstrip("/"),
            username=given.get("MLFLOW_TRACKING_USERNAME") or unquote(uri.username or "") or None,
            password=given.get("MLFLOW_TRACKING_PASSWORD") or unquote(uri.password or "") or None,
            token=given.get("MLFLOW_TRACKING_TOKEN"),
            verify=not insecure and given.get("MLFLOW_TRACKING_SERVER_CERT_PATH", True),
        )

    def client(self) -> httpx.Client:
        """A client with timeouts, which follows no redirect and leaves no connection open behind it."""
        headers = {"Accept-Encoding": "identity"}
        if self.token and not self.username:
            headers["Authorization"] = f"Bearer {self.token}"
        return httpx.Client(
            base_url=self.tracking_uri,
            auth=(self.username, self.password or "") if self.username else None,
            headers=headers,
            verify=self._tls(),
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def _tls(self) -> ssl.SSLContext | bool:
        if not isinstance(self.verify, str):
            return self.verify
        try:
            return ssl.create_default_context(cafile=self.verify)
        except OSError as error:
            raise SourceError(f"MLFLOW_TRACKING_SERVER_CERT_PATH {self.verify} cannot be read: {error}") from error


def asked(client: httpx.Client, path: str, which: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object that the server answers to a GET, which is tried again when the server is busy or away.

    Raises:
        SourceError: There is no such answer; the message holds the server's own.
    """

    def ask() -> dict[str, Any]:
        with translated(str(client.base_url.host)):
            answer = client.get(path, params=dict(which))
            refuse_error(answer)
            told = answer.json()
            return told if isinstance(told, dict) else {}

    return persistently(ask)


def refuse_error(answer: httpx.Response) -> None:
    """Raise `SourceError` with MLflow's message unless the answer is a success; its body must have been read."""
    if answer.is_success:
        return
    try:
        told = str(answer.json()["message"])
    except (ValueError, TypeError, KeyError):
        told = answer.reason_phrase
    kind = Interrupted if answer.status_code in _BUSY else SourceError
    raise kind(f"MLflow at {answer.url.netloc.decode()} answers {answer.status_code}: {told}")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """The client's errors in the words of this component."""
    try:
        yield
    except httpx.TransportError as error:
        raise Interrupted(f"{where}: {str(error) or type(error).__name__}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise SourceError(f"{where}: {error}") from error
