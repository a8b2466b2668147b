"""A folder that is filled from elsewhere, and is seen either whole or not at all.

What belongs here: writing to disk so that a crash at any moment leaves nothing that could be served. What does not:
where the bytes come from, and which files they are.

A download grows in `DOWNLOAD_DIR/.partial-…`, whose lock its process holds, and becomes `DOWNLOAD_DIR/SHA256` in one
step (rename(2)) after everything in it has reached the disk. The name is the SHA-256 of the list of its files' SHA-256
sums, which lies in it as `SHA256SUMS`, in the format of sha256sum(1). So the same files are kept once, however often
they are fetched, and files that were damaged since are replaced.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.errors import SourceError
from predictor.external_data import is_inside
from predictor.store import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUMS_FILE = "SHA256SUMS"
_PARTIAL = ".partial-"


class Download:
    """A download in progress; `filling` makes one.

    Args:
        folder: Its temporary folder, inside the download directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sums: dict[str, str] = {}

    def write(self, name: str, chunks: Iterable[bytes], size_bytes: int | None) -> None:
        """Write one file; a name that was written before is replaced.

        Raises:
            SourceError: The name leaves the folder.
            Interrupted: There are more or fewer bytes than announced.
        """
        if not is_inside(name) or name == SUMS_FILE:
            raise SourceError(f"a file called {name!r} is not accepted")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            _sync(file.fileno())
            written_bytes = file.tell()
        if size_bytes not in {None, written_bytes}:
            raise Interrupted(f"{name} has {size_bytes} bytes, of which {written_bytes} came")
        self._sums[name] = digest.hexdigest()

    def publish(self) -> Path:
        """Give the folder its final name, under which it is complete."""
        sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(self._sums.items()))
        (self.folder / SUMS_FILE).write_text(sums, encoding="utf-8")
        for path in (self.folder / SUMS_FILE, *self._folders()):
            _sync_path(path)
        final = self.folder.parent / hashlib.sha256(sums.encode()).hexdigest()
        with _locked(final.parent):
            if not _is_intact(final, sums):
                with suppress(FileNotFoundError):
                    final.rename(self.folder.with_name(f"{self.folder.name}-damaged"))
                self.folder.rename(final)
        _sync_path(final.parent)
        return final

    def _folders(self) -> set[Path]:
        return {self.folder, *(self.folder / parent for name in self._sums for parent in Path(name).parents)}


@contextmanager
def filling(download_dir: Path) -> Iterator[Download]:
    """A new download, which is gone at the end of the block unless it was published.

    Args:
        download_dir: The folder for it and for what was published; made if it is missing.

    Raises:
        SourceError: The folder cannot be written to.
    """
    try:
        download_dir = download_dir.expanduser()
    except RuntimeError as error:
        raise SourceError(f"the download folder {download_dir} needs a home directory: {error}") from error
    try:
        download_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(download_dir):
            _remove_leftovers(download_dir)
            folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=download_dir))
            alive = _take_lock(folder)
        try:
            yield Download(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(alive)
    except OSError as error:
        raise SourceError(f"the download folder {download_dir} cannot be used: {error}") from error


def _remove_leftovers(download_dir: Path) -> None:
    """What processes left that are gone: the kernel has released their locks."""
    for folder in download_dir.glob(f"{_PARTIAL}*"):
        try:
            os.close(_take_lock(folder))
        except BlockingIOError:
            continue
        shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other process is between looking and renaming here; taken for milliseconds only."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take_lock(folder: Path) -> int:
    """The descriptor that holds the folder's lock until it is closed; `BlockingIOError` if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _is_intact(folder: Path, sums: str) -> bool:
    """Whether the folder holds exactly what the sums say."""
    try:
        return all(_sha256(folder / name) == digest for digest, _, name in map(_sum_line, sums.splitlines()))
    except OSError:
        return False


def _sum_line(line: str) -> tuple[str, str, str]:
    return line.partition("  ")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
