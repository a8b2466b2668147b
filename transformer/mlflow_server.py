"""An MLflow server, and the one question that is put to it: which aliases a version of a registered model has.

What belongs here: access by MLflow's own names in the environment, HTTP, and reading the answer. What does not: when
it is asked, and what is told while it is away (`registry_aliases`).

Of MLflow's REST API 2.0 (mlflow.org, "REST API") that is `model-versions/get`, whose answer leaves `aliases` out where
there are none.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import aiohttp
import orjson

from transformer.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

TIMEOUT_S = 1.0
"""For a whole question. A server that is there answers in some milliseconds, and people wait for what it says."""

_OK, _UNKNOWN = 200, 404
_MAX_BYTES = 4 * 1024 * 1024
"""Of an answer: a version's description and all of its tags, each of which MLflow lets grow to 100,000 characters."""


class RegistryError(Exception):
    """The registry gave no answer that can be used; the message holds nothing of credentials or of foreign text."""


class MlflowServer:
    """Asks about the versions of one registered model.

    Args:
        uri: The server's base URL; it may hold a user name and a password.
        model: The registered model's name.
        environ: May hold MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN, _SERVER_CERT_PATH and _INSECURE_TLS.
        timeout_s: For a whole question.

    Raises:
        BadSettings: The file with the certificate authorities cannot be read.
    """

    def __init__(self, uri: str, model: str, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(uri)
        base_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._url = f"{base_url}/api/2.0/mlflow/model-versions/get"
        self._model = model
        self._headers = {"Accept-Encoding": "identity", **_authorization(parts, environ)}
        self._tls = _tls(environ) if parts.scheme == "https" else False
        self._timeout_s = timeout_s

    async def aliases(self, version: str) -> tuple[str, ...]:
        """The aliases that a version has now, in the order of the alphabet.

        Args:
            version: Its number.

        Raises:
            RegistryError: The server does not know the version, or does not say.
        """
        try:
            status, body = await self._get({"name": self._model, "version": version})
        except TimeoutError as error:
            raise RegistryError(f"it did not answer within {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RegistryError(f"it cannot be asked: {type(error).__name__}") from error
        if status == _UNKNOWN:
            raise RegistryError(f"it knows no version {version} of {self._model}")
        if status != _OK:
            raise RegistryError(f"it answers with status {status}")
        return _read(body)

    async def _get(self, question: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of an answer. A connection serves one question: the next comes when it would be closed."""
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                auto_decompress=False,
            ) as session,
            session.get(self._url, params=question, headers=self._headers, allow_redirects=False) as answer,
        ):
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if len(body) > _MAX_BYTES:
                    raise RegistryError("its answer has no end")
            return answer.status, bytes(body)


def _authorization(uri: SplitResult, environ: Mapping[str, str]) -> dict[str, str]:
    """The header for it: basic authentication where there is a user's name, else the token, else none."""
    name = environ.get("MLFLOW_TRACKING_USERNAME") or unquote(uri.username or "")
    password = environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(uri.password or "")
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    if name:
        credentials = f"{name}:{password}".encode(errors="surrogateescape")  # as the environment has them
        return {"Authorization": f"Basic {b64encode(credentials).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    """What certificates are checked by; False where the operator wants them unchecked."""
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"1", "true"}:
        return False
    path = environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise BadSettings(f"MLFLOW_TRACKING_SERVER_CERT_PATH {path} cannot be read: {error}") from error


def _read(body: bytes) -> tuple[str, ...]:
    try:
        aliases = orjson.loads(body)["model_version"].get("aliases", [])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RegistryError("its answer is not MLflow's") from error
    if not isinstance(aliases, list) or not all(isinstance(one, str) for one in aliases):
        raise RegistryError("its answer is not MLflow's")
    return tuple(sorted(aliases))
