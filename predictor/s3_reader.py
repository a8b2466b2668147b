"""Reading from S3 with Python's own library.

What belongs here: a folder of a bucket as `Store`, over signed or anonymous requests. What does not: the signature
(`s3_signature`) and the environment (`S3Access`).

Beside `S3Store`, which needs boto3: that one knows every way to credentials and is imported in half a second; this one
knows access keys only and is imported in a twentieth. Every new pod waits for it.
"""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

from predictor.errors import SourceError
from predictor.s3_signature import Key, canonical_query, signed_headers
from predictor.s3_source import refusal
from predictor.store import MAX_FILES, READ_TIMEOUT_S, Interrupted, RemoteFile, persistently

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from http.client import HTTPResponse

    from predictor.s3_source import S3Access

_CHUNK_BYTES = 1 << 20
_SUCCESS = range(200, 300)
_SERVER_ERRORS = range(500, 600)


class S3Reader:
    """A folder of a bucket.

    Args:
        access: How S3 is reached.
        bucket: The bucket's name.
        folder: The beginning of its objects' keys; without a `/` at its end, which is added; empty for the bucket.

    Raises:
        SourceError: The access holds no key and is not anonymous.
    """

    def __init__(self, access: S3Access, bucket: str, folder: str) -> None:
        self.where = f"s3://{bucket}/{folder}".rstrip("/")
        """See `Store`."""
        self._prefix = f"{folder.rstrip('/')}/" if folder else ""
        self._verify = access.verify
        self._key = _key(access, self.where)
        endpoint = urlsplit(access.endpoint_url or f"https://s3.{access.region}.amazonaws.com")
        # A certificate for *.s3.… does not cover a bucket whose name has a dot.
        virtual = access.addressing_style == "virtual" or (access.endpoint_url is None and "." not in bucket)
        self._secure = endpoint.scheme == "https"
        self._host = f"{bucket}.{endpoint.netloc}" if virtual else endpoint.netloc
        self._root = "/" if virtual else f"/{bucket}"

    def names(self) -> Collection[str]:
        """See `Store`; objects that stand for folders are left out."""
        found: list[str] = []
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            page = persistently(lambda: self._listing(query))
            keys = (one.findtext("{*}Key") or "" for one in page.findall("{*}Contents"))
            found += [key.removeprefix(self._prefix) for key in keys if not key.endswith("/")]
            if len(found) > MAX_FILES:
                raise SourceError(f"{self.where} holds more than {MAX_FILES} objects: name the model's own folder")
            token = page.findtext("{*}NextContinuationToken")
            if token is None:
                return found
            query["continuation-token"] = token

    def find(self, name: str) -> RemoteFile | None:
        """See `Store`. A listing is asked, because HEAD answers 403 for a missing object where listing is forbidden."""
        key = self._prefix + name
        # Keys are listed in the order of their bytes: of those that begin with this one, it comes first.
        page = persistently(lambda: self._listing({"list-type": "2", "prefix": key, "max-keys": "1"}))
        for one in page.findall("{*}Contents"):
            if one.findtext("{*}Key") == key:
                return RemoteFile(name, int(one.findtext("{*}Size") or 0), one.findtext("{*}ETag"))
        return None

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """See `Store`; `If-Match` holds the content to the ETag of the listing."""
        path = f"{self._root.rstrip('/')}/{quote(self._prefix + file.name, safe='/-._~')}"
        with self._answer(path, {}, if_match=file.etag or "*") as answer:
            while chunk := answer.read(_CHUNK_BYTES):
                yield chunk

    def _listing(self, query: Mapping[str, str]) -> ET.Element:
        with self._answer(self._root, query) as answer:
            content = answer.read()
        try:
            return ET.fromstring(content)  # noqa: S314 - the S3 service of the settings wrote it; expat bounds what entities expand to
        except ET.ParseError as error:
            raise SourceError(f"{self.where}: the answer is not S3's: {error}") from error

    @contextmanager
    def _answer(self, path: str, query: Mapping[str, str], **headers: str) -> Iterator[HTTPResponse]:
        """A successful answer, whose body is read inside the block; a connection for each."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._key is not None:
            given = signed_headers(self._key, self._host, path, query, datetime.now(UTC), **headers)
        connection = self._connection()
        try:
            connection.request("GET", f"{path}?{canonical_query(query)}" if query else path, headers=given)
            answer = connection.getresponse()
            if answer.status not in _SUCCESS:
                raise self._refused(answer)
            yield answer
        except (OSError, HTTPException) as error:
            raise Interrupted(f"{self.where}: {self._host}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if not self._secure:
            return HTTPConnection(self._host, timeout=READ_TIMEOUT_S)
        bundle = self._verify if isinstance(self._verify, str) else None
        context = ssl.create_default_context(cafile=bundle)
        if self._verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return HTTPSConnection(self._host, timeout=READ_TIMEOUT_S, context=context)

    def _refused(self, answer: HTTPResponse) -> SourceError:
        kind = Interrupted if answer.status in _SERVER_ERRORS else SourceError
        try:
            error = ET.fromstring(answer.read(_CHUNK_BYTES))  # noqa: S314 - the S3 service of the settings wrote it; expat bounds what entities expand to
        except ET.ParseError:
            return kind(f"{self.where}: {self._host} answers {answer.status} {answer.reason}")
        return kind(f"{self.where}: {refusal(error.findtext('Code') or '', error.findtext('Message') or '')}")


def _key(access: S3Access, where: str) -> Key | None:
    if access.anonymous:
        return None
    if access.key_id is None or access.secret_key is None:
        raise SourceError(f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return Key(access.key_id, access.secret_key, access.session_token, access.region)
