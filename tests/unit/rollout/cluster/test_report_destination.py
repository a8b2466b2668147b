"""Where a release's page is written, and how it is named."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from rollout import report_destination
from rollout.arguments import parse
from rollout.errors import RolloutError
from rollout.release import release_from_json, release_to_json
from rollout.report_destination import BucketObject, LocalFile, destination_of, file_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.release import Release


class _Bucket:
    """A client of S3 that remembers what it was given, unless it fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._failure = failure

    def put_object(self, *, Bucket: str, Key: str, **rest: Any) -> None:  # noqa: ANN401 - boto3's
        if self._failure is not None:
            raise self._failure
        self.objects[Bucket, Key] = rest


@pytest.fixture
def begun(release: Callable[..., Release]) -> Release:
    """A release that began where clocks are one hour ahead."""
    began_at = datetime(2026, 11, 24, 1, 15, 0, 123_456, tzinfo=timezone(timedelta(hours=1)))
    return release(service="localization", began_at=began_at)


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("report.html", LocalFile(Path("report.html"))),
        ("/tmp/s3/r.html", LocalFile(Path("/tmp/s3/r.html"))),  # noqa: S108 - nothing is written
        ("s3://reports/r.html", BucketObject("reports", "r.html")),
        ("s3://reports/a/b/", BucketObject("reports", "a/b/")),
        ("s3://reports/", BucketObject("reports", "")),
    ],
)
def test_a_file_or_an_object(text: str, destination: LocalFile | BucketObject) -> None:
    """By every command that writes a page."""
    assert destination_of(text) == destination
    for command in ("release", "judge", "report"):
        assert parse([command, "--html", text], {}).html == destination


@pytest.mark.parametrize("text", ["s3://reports", "s3:///r.html", "https://host/r.html"])
def test_no_other_place(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line says so, with its exit code, before anything is released."""
    with pytest.raises(SystemExit) as ended:
        parse(["release", "--html", text], {})
    assert ended.value.code == 2
    assert f"--html: {text}: a report is written to a file, to s3://" in capsys.readouterr().err


def test_a_report_of_both_arms_is_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    """`ab` writes none, so it takes no place for one."""
    with pytest.raises(SystemExit):
        parse(["ab", "--html", "r.html"], {})
    assert "--html" in capsys.readouterr().err


def test_every_run_of_a_release_names_its_page_alike(begun: Release) -> None:
    """By service, version and the release's own beginning in UTC, as the cluster remembers it."""
    assert file_name(begun) == "localization-2-20261124T001500Z.html"
    assert file_name(release_from_json(release_to_json(begun))) == file_name(begun)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("", "localization-2-20261124T001500Z.html"),
        ("a/b/", "a/b/localization-2-20261124T001500Z.html"),
        ("a/latest.html", "a/latest.html"),
    ],
)
def test_a_prefix_gets_an_object_for_each_release(
    begun: Release, monkeypatch: pytest.MonkeyPatch, key: str, written: str
) -> None:
    """A browser shows it: HTML, in UTF-8."""
    bucket = _Bucket()
    monkeypatch.setattr(report_destination, "s3_client", lambda: bucket)
    assert BucketObject("reports", key).write("<p>é</p>", begun) == f"s3://reports/{written}"
    expected = {"Body": "<p>é</p>".encode(), "ContentType": "text/html; charset=utf-8"}
    assert bucket.objects == {("reports", written): expected}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "PutObject"), "not yours"),
        (ConnectTimeoutError(endpoint_url="http://s3"), "timeout"),
    ],
)
def test_a_bucket_that_takes_nothing(
    begun: Release, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    """One error of this room's own, with the object's address and what S3 said."""
    monkeypatch.setattr(report_destination, "s3_client", lambda: _Bucket(failure))
    with pytest.raises(RolloutError, match=rf"cannot be written to s3://reports/r\.html: .*{message}"):
        BucketObject("reports", "r.html").write("", begun)


def test_an_endpoint_that_is_none(begun: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told like any other failure."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(RolloutError, match="Invalid endpoint: no address"):
        BucketObject("reports", "r.html").write("", begun)


def test_a_file(begun: Release, tmp_path: Path) -> None:
    """Named by whoever asks for it; a folder that is not there is told."""
    path = tmp_path / "r.html"
    assert LocalFile(path).write("<p>é</p>", begun) == str(path)
    assert path.read_text(encoding="utf-8") == "<p>é</p>"
    with pytest.raises(RolloutError, match=r"cannot be written to .*: No such file"):
        LocalFile(tmp_path / "no" / "r.html").write("", begun)
