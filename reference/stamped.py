"""Files that are made once and kept until the code that makes them changes.

What belongs here: locks, atomic replacement and stamps. What does not: what the files hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAKERS = (
    "geometry",
    "simulate",
    "features",
    "pooling",
    "network",
    "train",
    "calibrate",
    "contract",
    "export",
    "variants",
)
"""The modules that decide what a file holds."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: of several processes that want the same files, one makes them and the others wait."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_once(path: Path, settings: str, write: Callable[[Path], None]) -> Path:
    """Have `write` make the file, unless it was made before by this code with these settings; returns `path`.

    Args:
        path: Where the file shall be. It appears there only when it is complete.
        settings: Whatever decides the content beside the code.
        write: Called with the path to write to.
    """
    stamp = path.with_name(f".{path.name}.stamp")
    expected = _digest(settings)
    if path.exists() and stamp.exists() and stamp.read_text() == expected:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".new.{path.name}")
    write(fresh)
    fresh.replace(path)
    stamp.write_text(expected)
    return path


def _digest(settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for module in _MAKERS:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()
