"""How many CPUs this process may really use.

What belongs here: reading the kernel's limits. What does not: what the number is used for.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Inside a container this is the container's own cgroup, in version 1 and 2 alike."""

_V1_CONTROLLERS = ("cpu", "cpu,cpuacct")


def available_cpus(cgroup_root: Path = CGROUP_ROOT) -> int:
    """The CPU quota rounded up, at most the CPUs this process may be scheduled on, at least 1.

    Rounded up as Go's runtime does since 1.25: rounding down would leave part of the quota unused for ever, while one
    thread too many is throttled only when all are busy.
    """
    scheduled = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup_root) or _quota_v1(cgroup_root)
    return scheduled if quota is None else max(1, min(scheduled, math.ceil(quota)))


def _quota_v2(root: Path) -> float | None:
    """`cpu.max` holds `QUOTA PERIOD` in microseconds, or `max PERIOD` (kernel: Documentation/admin-guide/cgroup-v2)."""
    fields = _read(root / "cpu.max").split()
    return _ratio(*fields) if len(fields) == 2 else None  # noqa: PLR2004 - quota and period


def _quota_v1(root: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 when there is no limit (kernel: Documentation/scheduler/sched-bwc)."""
    for controller in _V1_CONTROLLERS:
        quota = _ratio(_read(root / controller / "cpu.cfs_quota_us"), _read(root / controller / "cpu.cfs_period_us"))
        if quota is not None:
            return quota
    return None


def _ratio(quota_us: str, period_us: str) -> float | None:
    if not (quota_us.isdecimal() and period_us.isdecimal() and int(quota_us) and int(period_us)):
        return None
    return int(quota_us) / int(period_us)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # a file that the other cgroup version has, or a system without cgroups
