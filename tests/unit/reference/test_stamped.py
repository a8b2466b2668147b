from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reference import stamped

if TYPE_CHECKING:
    from pathlib import Path


def test_file_is_made_once_per_settings(tmp_path: Path) -> None:
    """The same settings find the file there; other settings make it again."""
    path, calls = tmp_path / "folder" / "file", []

    def write(fresh: Path) -> None:
        calls.append(fresh)
        fresh.write_text(f"version {len(calls)}")

    for settings in ("a", "a", "b", "b"):
        assert stamped.make_once(path, settings, write) == path
    assert len(calls) == 2
    assert path.read_text() == "version 2"


def test_deleted_file_is_made_again(tmp_path: Path) -> None:
    """A stamp without its file counts for nothing."""
    path = tmp_path / "file"
    stamped.make_once(path, "a", lambda fresh: fresh.write_text("x") and None)
    path.unlink()
    stamped.make_once(path, "a", lambda fresh: fresh.write_text("y") and None)
    assert path.read_text() == "y"


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """A file appears only when it is complete."""

    def fail(fresh: Path) -> None:
        fresh.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stamped.make_once(tmp_path / "file", "a", fail)
    assert not (tmp_path / "file").exists()


def test_lock_makes_its_directory(tmp_path: Path) -> None:
    """Locking a directory that is not there yet makes it, and the lock can be taken again afterwards."""
    for _ in range(2):
        with stamped.locked(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()
