from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from reference import __main__ as program
from reference.errors import ReferenceFailed
from reference.probe_set import BucketFolder, open_folder, to_int16, write_probe_set
from reference.simulate import captures

if TYPE_CHECKING:
    from pathlib import Path

SEED = 5


def test_a_probe_set_holds_the_seeds_captures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """INT16 samples times their full scale are the simulated ones within half a step, with the truth beside them."""
    assert program.main(["probe-set", "--out", str(tmp_path), "--captures", "40", "--seed", str(SEED)]) == 0
    text = (tmp_path / "manifest.json").read_bytes()
    assert capsys.readouterr().out.strip() == "sha256:" + hashlib.sha256(text).hexdigest()
    manifest, drawn = json.loads(text), captures(SEED, 40)
    assert [chunk["captures"] for chunk in manifest["chunks"]] == [32, 8]
    files = [tmp_path / chunk["file"] for chunk in manifest["chunks"]]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert sums == [chunk["sha256"] for chunk in manifest["chunks"]]
    codes = np.concatenate([np.load(path)["iq"] for path in files])
    assert codes.dtype == np.int16
    unit = 10.0 ** ((np.array(manifest["full_scale_dbm"]) + 50.0) / 20.0) / 32_768.0
    assert np.abs(codes * unit[:, None, None, None] - drawn.iq).max() <= 0.5001 * unit.max()
    assert np.array([manifest["latitude"], manifest["longitude"]]).T.tolist() == drawn.position_deg.tolist()
    assert (manifest["position"], manifest["shape"]) == (list(range(40)), [7, 4_480])


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    """One seed is one digest, so that two people talk of the same set."""
    digests = {write_probe_set(open_folder(str(tmp_path / name)), 3, SEED) for name in ("a", "b")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("peak", "full_scale_dbm"), [(0.0, -50.0), (0.5, -50.0), (1.0, -40.0), (3.2, -30.0), (9.9, -30.0)]
)
def test_no_sample_clips(peak: float, full_scale_dbm: float) -> None:
    """The smallest step of 10 dB that holds the largest sample."""
    codes, scale = to_int16(np.array([[[[peak, 0.1], [-peak, 0.0]]]], dtype=np.float32))
    assert scale.tolist() == [full_scale_dbm]
    expected = peak * 10.0 ** (-(full_scale_dbm + 50.0) / 20.0) * 32_768.0
    assert codes[0, 0, :, 0] == pytest.approx([expected, -expected], abs=0.51)


class _Bucket:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:
        if Bucket == "missing":
            raise ClientError({"Error": {"Code": "NoSuchBucket", "Message": "no such bucket"}}, "PutObject")
        self.objects[Key] = Body


def test_it_can_lie_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a prefix, the manifest last, so that half a set is none."""
    client: Any = _Bucket()
    write_probe_set(BucketFolder(client, "probes", "set"), 2, SEED)
    assert list(client.objects) == ["set/0000.npz", "set/manifest.json"]
    write_probe_set(BucketFolder(client, "probes", ""), 1, SEED)
    assert list(client.objects)[2:] == ["0000.npz", "manifest.json"]
    with pytest.raises(ReferenceFailed, match="no such bucket"):
        write_probe_set(BucketFolder(client, "missing", "set"), 1, SEED)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = open_folder("s3://probes/set/")
    assert isinstance(found, BucketFolder)
    assert (found.bucket, found.prefix) == ("probes", "set")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(ReferenceFailed, match="no address"):
        open_folder("s3://probes/set")


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder's place, and a machine without boto3, are said in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ReferenceFailed, match="file"):
        write_probe_set(open_folder(str(tmp_path / "file")), 1, SEED)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ReferenceFailed, match="needs boto3"):
        open_folder("s3://probes/set")
