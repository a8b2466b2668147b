from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from predictor.download import SUMS_FILE, filling
from predictor.errors import SourceError
from predictor.store import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_named_by_its_content(tmp_path: Path) -> None:
    """The folder's name is the SHA-256 of the list of sums, so that the same files are kept once."""
    for _ in range(2):
        with filling(tmp_path / "new" / "kept") as download:
            download.write("model.onnx", [b"a", b"b"], 2)
            download.write("data/w.bin", [], None)
            final = download.publish()
    sums = f"{hashlib.sha256(b'').hexdigest()}  data/w.bin\n{hashlib.sha256(b'ab').hexdigest()}  model.onnx\n"
    assert final == tmp_path / "new" / "kept" / hashlib.sha256(sums.encode()).hexdigest()
    assert (final / SUMS_FILE).read_text() == sums
    assert ((final / "model.onnx").read_bytes(), (final / "data/w.bin").read_bytes()) == (b"ab", b"")
    assert _entries(final.parent) == [final.name]


def test_nothing_is_left_of_a_download_that_fails(tmp_path: Path) -> None:
    """An error in the middle removes what was written; what is published is never half."""

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise Interrupted("cut")

    with pytest.raises(Interrupted, match="cut"), filling(tmp_path) as download:
        download.write("model.onnx", broken(), None)
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [0, 2, 4])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size_bytes: int) -> None:
    """Fewer or more bytes than the listing announced are no file; a second, whole attempt replaces it."""
    with filling(tmp_path) as download:
        with pytest.raises(Interrupted, match=f"model.onnx has {size_bytes} bytes, of which 3 came"):
            download.write("model.onnx", [b"abc"], size_bytes)
        download.write("model.onnx", [b"xy"], 2)
        assert (download.publish() / "model.onnx").read_bytes() == b"xy"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", ".", "..", "a\0b", SUMS_FILE])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    """No name from elsewhere writes outside the folder, or over the list of sums."""
    with filling(tmp_path / "kept") as download, pytest.raises(SourceError, match="is not accepted"):
        download.write(name, [b"a"], 1)
    assert _entries(tmp_path) == ["kept"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_folder_is_replaced(tmp_path: Path, damage: str) -> None:
    """A folder of the right name with wrong content is not trusted."""
    finals = []
    for _ in range(2):
        with filling(tmp_path) as download:
            download.write("model.onnx", [b"good"], 4)
            finals.append(download.publish())
        assert (finals[-1] / "model.onnx").read_bytes() == b"good"
        (finals[-1] / "model.onnx").write_bytes(b"bad!") if damage == "changed" else (
            finals[-1] / "model.onnx"
        ).unlink()
    assert finals[0] == finals[1]


HANGING = """
import signal, sys
from pathlib import Path
from predictor.download import filling
with filling(Path(sys.argv[1])) as download:
    download.write("model.onnx", [b"half"], None)
    print("started", flush=True)
    signal.pause()
"""


def test_leftovers_of_a_killed_process(tmp_path: Path) -> None:
    """A download in progress elsewhere is left alone; once its process was killed the next download removes it."""
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        before = _entries(tmp_path)
        assert [name.startswith(".partial-") for name in before] == [True]
        with filling(tmp_path):
            assert set(_entries(tmp_path)) > set(before)
        assert _entries(tmp_path) == before
        process.kill()
    with filling(tmp_path):
        assert not set(_entries(tmp_path)) & set(before)
    assert _entries(tmp_path) == []


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of the download folder, or no home directory to put it in, is told as such."""
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="file cannot be used"), filling(tmp_path / "file"):
        pass
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", _nobody)
    with pytest.raises(SourceError, match="needs a home directory"), filling(Path("~/kept")):
        pass


def _nobody(uid: int) -> None:
    raise KeyError(uid)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk while writing is an error of this download, and leaves nothing."""

    def full(descriptor: int) -> None:
        raise OSError(28, f"No space left on device {descriptor >= 0}")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceError, match="No space left"), filling(tmp_path) as download:
        download.write("model.onnx", [b"a"], 1)
    assert _entries(tmp_path) == []
