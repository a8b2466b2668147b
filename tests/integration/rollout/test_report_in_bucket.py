"""A release's page in a real MinIO."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from rollout.artifact import s3_client
from rollout.errors import RolloutError
from rollout.policy import Policy
from rollout.release import ModelVersion, Release, Stage
from rollout.report import Report, render
from rollout.report_destination import destination_of

if TYPE_CHECKING:
    from conftest import Running
    from types_boto3_s3 import S3Client

BEGAN = datetime(2026, 11, 24, 0, 15, tzinfo=UTC)
MODEL = ModelVersion("localization_model", "7", "s3://models/7", "sha256:7")
HALTED = Release("r", "radio", "localization", MODEL, None, Policy(), Stage.CANARY, 0, BEGAN, BEGAN)
KEY = "of/radio/localization-7-20261124T001500Z.html"


@pytest.fixture
def s3(minio: Running, monkeypatch: pytest.MonkeyPatch) -> S3Client:
    """A client of the server that the environment names now."""
    for name, text in minio.environ.items():
        monkeypatch.setenv(name, text)
    return s3_client()


def test_a_release_that_is_taken_up_writes_over_its_own_page(s3: S3Client) -> None:
    """One object for each release, which a browser shows; another release leaves it alone."""
    s3.create_bucket(Bucket="reports")
    destination = destination_of("s3://reports/of/radio/")
    ended = replace(HALTED, stage=Stage.ROLLED_BACK, reason="the canary is slow")
    for release in (HALTED, ended):
        assert destination.write(render(Report(release)), release) == f"s3://reports/{KEY}"
    later = replace(ended, began_at=BEGAN.replace(hour=3))
    destination.write(render(Report(later)), later)
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="reports")["Contents"]]
    assert keys == [KEY, KEY.replace("T0015", "T0315")]
    address = s3.generate_presigned_url("get_object", Params={"Bucket": "reports", "Key": KEY}, ExpiresIn=60)
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.read().decode() == render(Report(ended))


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there and keys that are wrong are told in the server's words."""
    destination = destination_of("s3://no-such-bucket/")
    with pytest.raises(RolloutError, match=r"s3://no-such-bucket/localization-7-.*NoSuchBucket"):
        destination.write("", HALTED)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key")
    with pytest.raises(RolloutError, match="SignatureDoesNotMatch"):
        destination.write("", HALTED)
