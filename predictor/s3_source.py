"""Models in S3, or in anything that speaks its protocol, such as MinIO.

What belongs here: access by the names that KServe gives to the environment of its storage initializer, and a folder of
a bucket as `Store`. What does not: which of the objects make a model. boto3 is imported when it is needed, because most
predictors read a folder that KServe has filled.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predictor.errors import SourceError
from predictor.store import ATTEMPTS, CONNECT_TIMEOUT_S, MAX_FILES, READ_TIMEOUT_S, Interrupted, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from types_boto3_s3 import S3Client

_CHUNK_BYTES = 1 << 20
_FALSE = {"0", "false"}
_AMAZON = "amazonaws.com"


@dataclass(frozen=True, slots=True)
class S3Access:
    """How S3 is reached. Names of the environment: KServe, pkg/credentials/s3/s3_secret.go and its storage initializer.

    Attributes:
        endpoint_url: None is Amazon's.
        region: What requests are signed for.
        addressing_style: "path" puts the bucket into the path, as MinIO needs it, "virtual" into the host name.
        accelerate: Whether Amazon's transfer acceleration is used.
        anonymous: Whether requests go unsigned.
        verify: Whether certificates are checked, or the file with the authorities to check them by.
        key_id: The access key; None leaves it to boto3's own search (web identity, profiles, instance metadata).
        secret_key: Its secret.
        session_token: For temporary keys.
    """

    endpoint_url: str | None
    region: str
    addressing_style: str
    accelerate: bool
    anonymous: bool
    verify: bool | str
    key_id: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> S3Access:
        """What the environment says; empty variables count as missing.

        Raises:
            SourceError: A bundle of certificate authorities is named that is not there.
        """
        given = {name: text for name, text in environ.items() if text}
        endpoint_url = _endpoint_url(given)
        return cls(
            endpoint_url=endpoint_url,
            region=_first(given, "AWS_DEFAULT_REGION", "AWS_REGION", "S3_REGION") or "us-east-1",
            addressing_style=_addressing_style(given, endpoint_url),
            accelerate=_is_true(given, "S3_USE_ACCELERATE"),
            anonymous=_is_true(given, "awsAnonymousCredential"),
            verify=_verify(given),
            key_id=given.get("AWS_ACCESS_KEY_ID"),
            secret_key=given.get("AWS_SECRET_ACCESS_KEY"),
            session_token=given.get("AWS_SESSION_TOKEN"),
        )

    def client(self) -> S3Client:
        """A client with timeouts and a bounded number of retries.

        Raises:
            SourceError: boto3 is not installed, or makes no sense of these settings.
        """
        try:
            import boto3  # noqa: PLC0415 - see the module's docstring
            from botocore import UNSIGNED  # noqa: PLC0415 - comes with boto3
            from botocore.config import Config  # noqa: PLC0415 - comes with boto3
        except ImportError as error:
            raise SourceError("s3:// needs boto3, which is not installed: add the extra 'registry'") from error
        style: Any = self.addressing_style  # boto3's types know three texts, the environment any
        config = Config(
            signature_version=UNSIGNED if self.anonymous else None,
            s3={"addressing_style": style, "use_accelerate_endpoint": self.accelerate},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        try:
            return boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint_url,
                region_name=self.region,
                verify=self.verify,
                config=config,
                aws_access_key_id=self.key_id,
                aws_secret_access_key=self.secret_key,
                aws_session_token=self.session_token,
            )
        except ValueError as error:
            raise SourceError(f"S3 cannot be reached: {error}") from error


def _endpoint_url(given: Mapping[str, str]) -> str | None:
    """AWS_ENDPOINT_URL; else S3_ENDPOINT, host and port, with the scheme of S3_USE_HTTPS; else MLflow's name for it."""
    host = given.get("S3_ENDPOINT")
    if host and "://" not in host:
        scheme = "http" if given.get("S3_USE_HTTPS", "1").lower() in _FALSE else "https"
        host = f"{scheme}://{host}"
    return given.get("AWS_ENDPOINT_URL") or host or given.get("MLFLOW_S3_ENDPOINT_URL")


def _addressing_style(given: Mapping[str, str], endpoint_url: str | None) -> str:
    if _is_true(given, "S3_USER_VIRTUAL_BUCKET"):
        return "virtual"
    return "path" if endpoint_url and _AMAZON not in endpoint_url else "auto"


def _verify(given: Mapping[str, str]) -> bool | str:
    if given.get("S3_VERIFY_SSL", "1").lower() in _FALSE or _is_true(given, "MLFLOW_S3_IGNORE_TLS"):
        return False
    bundle = given.get("AWS_CA_BUNDLE")
    if bundle is None and "CA_BUNDLE_CONFIGMAP_NAME" in given:
        bundle = os.path.join(given.get("CA_BUNDLE_VOLUME_MOUNT_POINT", "/etc/ssl/custom-certs"), "cabundle.crt")  # noqa: PTH118 - stays a text
    if bundle is not None and not os.path.isfile(bundle):  # noqa: PTH113 - the same
        raise SourceError(f"there is no bundle of certificate authorities {bundle}")
    return bundle or True


def _first(given: Mapping[str, str], *names: str) -> str | None:
    return next((given[name] for name in names if name in given), None)


def _is_true(given: Mapping[str, str], name: str) -> bool:
    return given.get(name, "").lower() in {"1", "true"}


class S3Store:
    """A folder of a bucket.

    Args:
        client: Of the S3 service.
        bucket: The bucket's name.
        folder: The beginning of its objects' keys; without a `/` at its end, which is added; empty for the bucket.
    """

    def __init__(self, client: S3Client, bucket: str, folder: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{folder.rstrip('/')}/" if folder else ""

    @property
    def where(self) -> str:
        """The folder's URI."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def names(self) -> Collection[str]:
        """See `Store`; objects that stand for folders are left out."""
        names: list[str] = []
        with _translated(self.where):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                keys = (one["Key"] for one in page.get("Contents", ()))
                names += [key.removeprefix(self._prefix) for key in keys if not key.endswith("/")]
                if len(names) > MAX_FILES:
                    raise SourceError(f"{self.where} holds more than {MAX_FILES} objects: name the model's own folder")
        return names

    def find(self, name: str) -> RemoteFile | None:
        """See `Store`. A listing is asked, because HEAD answers 403 for a missing object where listing is forbidden."""
        key = self._prefix + name
        with _translated(f"{self.where}/{name}"):
            # Keys are listed in the order of their bytes: of those that begin with this one, it comes first.
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        listed = [one for one in page.get("Contents", ()) if one["Key"] == key]
        return RemoteFile(name, listed[0]["Size"], listed[0]["ETag"]) if listed else None

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """See `Store`; `If-Match` holds the content to the ETag of the listing, boto3 checks stored checksums."""
        where = f"{self.where}/{file.name}"
        with _translated(where):
            key = self._prefix + file.name
            answer = self._client.get_object(Bucket=self._bucket, Key=key, IfMatch=file.etag or "*")
        with _translated(where, in_the_middle=Interrupted), closing(answer["Body"]) as body:
            yield from body.iter_chunks(_CHUNK_BYTES)


@contextmanager
def _translated(where: str, in_the_middle: type[SourceError] = SourceError) -> Iterator[None]:
    """boto3's errors in the words of this component. It has tried requests again itself, but not an answer's body."""
    from botocore import exceptions  # noqa: PLC0415 - see the module's docstring

    try:
        yield
    except exceptions.ClientError as error:
        raise SourceError(f"{where}: {_reason(error.response)}") from error
    except exceptions.NoCredentialsError as error:
        raise SourceError(f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except exceptions.BotoCoreError as error:
        raise in_the_middle(f"{where}: {error}") from error


_REASONS = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "the object is gone",
    "PreconditionFailed": "the object has changed since it was found; start again",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret of the access key is wrong",
    "AccessDenied": "the access key may not read this",
}
"""What the error codes of S3 mean for an operator (Amazon S3 API reference, Error responses)."""


def refusal(code: str, message: str) -> str:
    """What an error answer of S3 means, with its code."""
    return f"{_REASONS.get(code) or message or 'the request was refused'} ({code or 'no code'})"


def _reason(response: Any) -> str:  # noqa: ANN401 - botocore types it as an open dict
    error = response.get("Error", {})
    return refusal(str(error.get("Code", "")), str(error.get("Message", "")))
