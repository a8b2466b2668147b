"""Where the page of a release is written: a file of this machine, or an object in a bucket.

What belongs here: reading that from the command line, the object's name, and writing. What does not: the page
(`report`), and what a failure means for the command (`report_commands`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from rollout.artifact import s3_client
from rollout.errors import RolloutError

if TYPE_CHECKING:
    from rollout.release import Release

_OBJECT = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.*)")
_CONTENT_TYPE = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine, whose folder exists."""

    path: Path

    def write(self, page: str, release: Release) -> str:  # noqa: ARG002 - a file is named by whoever asks for it
        """Write the page; where it is. Raises `RolloutError`."""
        try:
            self.path.write_text(page, encoding="utf-8")
        except OSError as error:
            raise RolloutError(f"the report cannot be written to {self.path}: {error.strerror}") from error
        return str(self.path)


@dataclass(frozen=True, slots=True)
class BucketObject:
    """An object of S3, or of anything that speaks its protocol.

    Attributes:
        bucket: Its name.
        key: The object's; empty or with a slash at its end it is a prefix, and each release has an object of its own.
    """

    bucket: str
    key: str

    def write(self, page: str, release: Release) -> str:
        """Write the page, over an older one of the same name; where it is. Raises `RolloutError`."""
        key = self.key if self.key and not self.key.endswith("/") else f"{self.key}{file_name(release)}"
        uri = f"s3://{self.bucket}/{key}"
        try:
            s3_client().put_object(Bucket=self.bucket, Key=key, Body=page.encode(), ContentType=_CONTENT_TYPE)
        except (BotoCoreError, ClientError, ValueError) as error:
            raise RolloutError(f"the report cannot be written to {uri}: {error}") from error
        return uri


Destination = LocalFile | BucketObject


def destination_of(text: str) -> Destination:
    """A path, or s3://BUCKET/KEY; raises `ValueError` for anything else."""
    if "://" not in text:
        return LocalFile(Path(text))
    match = _OBJECT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text}: a report is written to a file, to s3://BUCKET/KEY or to s3://BUCKET/PREFIX/")
    return BucketObject(match["bucket"], match["key"])


def file_name(release: Release) -> str:
    """Of a release's page: one and the same for every run that takes the release up."""
    began_at = release.began_at.astimezone(UTC)
    return f"{release.service}-{release.challenger.version}-{began_at:%Y%m%dT%H%M%SZ}.html"
