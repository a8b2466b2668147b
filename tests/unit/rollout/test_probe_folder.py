from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from rollout.probe_folder import BucketFolder, open_folder
from rollout.probe_set import ProbeSetError

if TYPE_CHECKING:
    from pathlib import Path


class _Bucket:
    """A client of S3 that knows one object."""

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key == "away":
            raise ConnectTimeoutError(endpoint_url="http://s3")
        if (Bucket, Key) != ("probes", "set/manifest.json"):
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "gone"}}, "GetObject")
        return {"Body": io.BytesIO(b"{}")}


def test_a_folder_of_this_machine(tmp_path: Path) -> None:
    """Files by name, and one error for those that are not there."""
    (tmp_path / "manifest.json").write_bytes(b"{}")
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        assert open_folder(uri).read("manifest.json") == b"{}"
    with pytest.raises(ProbeSetError, match=r"0000\.npz: No such file"):
        open_folder(str(tmp_path)).read("0000.npz")


def test_a_prefix_of_a_bucket() -> None:
    """Keys are the prefix and the name; what S3 says is told."""
    client: Any = _Bucket()
    assert BucketFolder("probes", "set", client).read("manifest.json") == b"{}"
    with pytest.raises(ProbeSetError, match=r"s3://probes/other/manifest\.json: .*gone"):
        BucketFolder("probes", "other", client).read("manifest.json")
    with pytest.raises(ProbeSetError, match="timeout"):
        BucketFolder("probes", "", client).read("away")


def test_uris(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 or a path; another scheme and a client without an address are said to be wrong."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert isinstance(open_folder("s3://probes/set/"), BucketFolder)
    with pytest.raises(ProbeSetError, match="https://host/set"):
        open_folder("https://host/set")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(ProbeSetError, match="S3: "):
        open_folder("s3://probes/set")
