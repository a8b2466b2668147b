from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from predictor import s3_source
from predictor.errors import SourceError
from predictor.s3_source import S3Access, S3Store
from predictor.store import Interrupted, RemoteFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"endpoint_url": None, "region": "us-east-1", "addressing_style": "auto", "verify": True}),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, {"endpoint_url": "http://minio:9000", "addressing_style": "path"}),
        ({"S3_ENDPOINT": "minio:9000"}, {"endpoint_url": "https://minio:9000"}),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, {"endpoint_url": "http://minio:9000"}),
        ({"S3_ENDPOINT": "http://minio:9000"}, {"endpoint_url": "http://minio:9000"}),
        ({"AWS_ENDPOINT_URL": "http://a", "S3_ENDPOINT": "b"}, {"endpoint_url": "http://a"}),
        ({"MLFLOW_S3_ENDPOINT_URL": "http://minio:9000"}, {"endpoint_url": "http://minio:9000"}),
        ({"AWS_ENDPOINT_URL": "", "S3_ENDPOINT": "", "AWS_CA_BUNDLE": ""}, {"endpoint_url": None, "verify": True}),
        ({"AWS_ENDPOINT_URL": "https://s3.amazonaws.com"}, {"addressing_style": "auto"}),
        ({"AWS_ENDPOINT_URL": "http://a", "S3_USER_VIRTUAL_BUCKET": "true"}, {"addressing_style": "virtual"}),
        ({"S3_USE_ACCELERATE": "true"}, {"accelerate": True}),
        ({"awsAnonymousCredential": "True"}, {"anonymous": True}),
        ({"AWS_DEFAULT_REGION": "eu-south-1", "S3_REGION": "x"}, {"region": "eu-south-1"}),
        ({"S3_REGION": "eu-south-1"}, {"region": "eu-south-1"}),
        ({"S3_VERIFY_SSL": "0", "AWS_CA_BUNDLE": "/nowhere"}, {"verify": False}),
        ({"S3_VERIFY_SSL": "1"}, {"verify": True}),
        ({"MLFLOW_S3_IGNORE_TLS": "true"}, {"verify": False}),
    ],
)
def test_the_environment_of_kserve(environ: dict[str, str], expected: dict[str, Any]) -> None:
    """Every name that KServe gives its storage initializer means the same here; empty ones mean nothing."""
    access = S3Access.from_environ(environ)
    assert {name: getattr(access, name) for name in expected} == expected


def test_authorities_of_the_cluster(tmp_path: Path) -> None:
    """AWS_CA_BUNDLE, else the ConfigMap that KServe mounts; one that is missing is told."""
    bundle = tmp_path / "cabundle.crt"
    mounted = {"CA_BUNDLE_CONFIGMAP_NAME": "ca", "CA_BUNDLE_VOLUME_MOUNT_POINT": str(tmp_path)}
    with pytest.raises(SourceError, match=r"no bundle of certificate authorities .*/cabundle\.crt"):
        S3Access.from_environ(mounted)
    bundle.touch()
    assert S3Access.from_environ(mounted).verify == str(bundle)
    assert S3Access.from_environ({"AWS_CA_BUNDLE": str(bundle)}).verify == str(bundle)


def test_secrets_are_not_shown() -> None:
    """Neither the secret nor the token is in the text of the access, which may end up in a log."""
    access = S3Access.from_environ(
        {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_SESSION_TOKEN": "veiled"}
    )
    assert (access.secret_key, access.session_token) == ("hidden", "veiled")
    assert "hidden" not in repr(access)
    assert "veiled" not in repr(access)


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without boto3 says what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SourceError, match="add the extra 'registry'"):
        S3Access.from_environ({}).client()


class _Bucket:
    """A client that lists `keys`, and fails to read them with `error`."""

    def __init__(self, keys: list[str], error: Exception | None = None) -> None:
        self._keys, self._error = keys, error

    def get_paginator(self, _: str) -> _Bucket:
        return self

    def paginate(self, **_: str) -> list[dict[str, Any]]:
        return [{}, {"Contents": [{"Key": key} for key in self._keys]}]

    def get_object(self, **_: str) -> dict[str, Any]:
        raise self._error or AssertionError


def test_names_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are relative to the folder; a folder's own object is none; too many are refused."""
    pytest.importorskip("botocore")
    bucket: Any = _Bucket(["a/", "a/model.onnx", "a/2/"])
    assert S3Store(bucket, "b", "a/").names() == ["model.onnx"]
    monkeypatch.setattr(s3_source, "MAX_FILES", 0)
    with pytest.raises(SourceError, match=r"s3://b/a holds more than 0 objects"):
        S3Store(bucket, "b", "a").names()


def test_errors_of_boto3() -> None:
    """No credentials, a known and an unknown code: each has its words, and is not tried again."""
    exceptions = pytest.importorskip("botocore").exceptions
    for error, words in (
        (exceptions.NoCredentialsError(), "set AWS_ACCESS_KEY_ID"),
        (exceptions.ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject"), r"gone \(NoSuchKey\)"),
        (exceptions.ClientError({"Error": {"Code": "Odd", "Message": "so"}}, "GetObject"), r"so \(Odd\)"),
        (exceptions.ClientError({}, "GetObject"), r"refused \(no code\)"),
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), "Could not connect"),
    ):
        bucket: Any = _Bucket([], error)
        with pytest.raises(SourceError, match=words) as caught:
            list(S3Store(bucket, "b", "").read(RemoteFile("model.onnx", 1, '"e"')))
        assert not isinstance(caught.value, Interrupted)
