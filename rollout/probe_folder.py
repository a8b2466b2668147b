"""Where a probe set's files lie: a folder of this machine, or a prefix of a bucket.

What belongs here: reading whole files by their names. What does not: what is in them (`probe_set`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rollout.probe_set import ProbeSetError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
_ATTEMPTS = 3


class Folder(Protocol):
    """Where files are read from."""

    def read(self, name: str) -> bytes:
        """A whole file; raises `ProbeSetError`."""
        ...


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        """A whole file; raises `ProbeSetError`."""
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise ProbeSetError(f"{self._path / name}: {error.strerror}") from error


class BucketFolder:
    """A prefix of a bucket of S3, or of anything that speaks its protocol.

    Args:
        bucket: Its name.
        prefix: Without slashes at its ends.
        client: None makes one from the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the others that boto3
            knows.
    """

    def __init__(self, bucket: str, prefix: str, client: S3Client | None = None) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._client = client or _client()

    def read(self, name: str) -> bytes:
        """A whole file; raises `ProbeSetError`."""
        key = f"{self._prefix}/{name}" if self._prefix else name
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError, OSError) as error:
            raise ProbeSetError(f"s3://{self._bucket}/{key}: {error}") from error


def open_folder(uri: str) -> Folder:
    """The folder of `s3://BUCKET/PREFIX`, or of a path; raises `ProbeSetError` for any other scheme."""
    parts = urlsplit(uri)
    if parts.scheme == "s3" and parts.netloc:
        return BucketFolder(parts.netloc, parts.path.strip("/"))
    if parts.scheme in {"", "file"}:
        return LocalFolder(Path(parts.path))
    raise ProbeSetError(f"{uri}: a probe set lies in a folder or at s3://BUCKET/PREFIX")


def _client() -> S3Client:
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )
    try:
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise ProbeSetError(f"S3: {error}") from error
