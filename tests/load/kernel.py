"""What only the kernel can do to a process: lose its packets, fill its disk, limit its memory; and its clock.

What belongs here: one context manager for each, and whether it is possible here. All of them work in the runner's own
network and mount namespace (`in_own_namespaces`), so nothing of the machine is changed, and nothing is left.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processes import Part

_COMMAND_S = 10.0
_INSIDE = "HEIMDALL_OWN_NAMESPACES"
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def enter_own_namespaces() -> None:
    """Continue this program in namespaces of its own for network, mounts and processes, if it may.

    When the first process of a process namespace ends, the kernel ends all others in it.
    """
    if inside():
        _run("ip", "link", "set", "lo", "up")
    elif not os.geteuid() and shutil.which("unshare") and shutil.which("ip"):
        os.environ[_INSIDE] = "1"
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", [*words, sys.executable, *sys.argv])  # noqa: S606, S607 - this program again


def inside() -> bool:
    """Whether this program runs in namespaces of its own."""
    return bool(os.environ.get(_INSIDE))


@contextmanager
def packets_lost(port: int, percent: int) -> Iterator[Callable[[], int]]:
    """So many of a hundred packets to and from a port are lost; what is yielded tells how many were.

    By nftables, as the kernel may lack tc's netem.
    """
    _run("nft", "add table inet heimdall; add chain inet heimdall loss { type filter hook input priority 0; }")
    for side in ("dport", "sport"):
        rule = f"tcp {side} {port} numgen random mod 100 < {percent} counter drop"
        _run("nft", f"add rule inet heimdall loss {rule}")
    try:
        yield lambda: sum(map(int, re.findall(r"counter packets (\d+)", _run("nft", "list table inet heimdall"))))
    finally:
        _run("nft", "delete table inet heimdall")


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """The folder is a file system of its own that holds so much."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "heimdall-chaos", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Not a byte is free in the folder's file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    yield
    filler.unlink()


@contextmanager
def limited_memory(part: Part, limit_bytes: int) -> Iterator[Path]:
    """The part, when it is started, may use so much memory, as a container with that limit; its control group."""
    group = (_V1 if _V1.is_dir() else _V2) / f"heimdall-chaos-{os.getpid()}-{part.name}"
    group.mkdir()
    name = "memory.limit_in_bytes" if _V1.is_dir() else "memory.max"
    (group / name).write_text(str(limit_bytes), encoding="utf-8")
    enter = f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"'
    part.command = ["sh", "-c", enter, *part.command]
    try:
        yield group
    finally:
        part.end()
        group.rmdir()


def most_memory_bytes(group: Path) -> int:
    """The most that a control group has used."""
    name = "memory.max_usage_in_bytes" if _V1.is_dir() else "memory.peak"
    return int((group / name).read_text(encoding="utf-8"))


def memory_can_be_limited() -> bool:
    """Whether there is a memory controller that this process may use."""
    if os.geteuid():
        return False
    if _V1.is_dir():
        return os.access(_V1, os.W_OK)
    control = _V2 / "cgroup.subtree_control"
    return control.is_file() and "memory" in control.read_text(encoding="utf-8").split()


class Clock:
    """A wall clock that a process is shown instead of the machine's; its monotonic clock stays (libfaketime).

    Args:
        file: Says how far it is off.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @staticmethod
    def library() -> Path | None:
        """Where libfaketime is, if it is installed."""
        return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

    @property
    def environ(self) -> dict[str, str]:
        """What shows it to a process that is started with it."""
        told = {"LD_PRELOAD": str(self.library()), "FAKETIME_TIMESTAMP_FILE": str(self._file)}
        return {**told, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_CACHE_DURATION": "1"}

    def set(self, off_s: int) -> None:
        """How far it is ahead, or behind if negative; processes notice within two seconds."""
        self._file.write_text(f"{off_s:+d}\n", encoding="utf-8")

    @contextmanager
    def off(self, off_s: int) -> Iterator[None]:
        """It is wrong in the block."""
        self.set(off_s)
        yield
        self.set(0)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_S).stdout
