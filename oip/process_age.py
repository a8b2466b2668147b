"""How long this process has been there, imports included, so that the log can say where a start's time went.

What belongs here: reading the kernel's clock of processes. What does not: what is logged.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/self/stat")
_START_TIME_FIELD = 22
"""`starttime` in proc_pid_stat(5): clock ticks between the machine's start and the process's."""


def process_age_s() -> float:
    """Seconds since the kernel started this process, to 10 ms; not a number where there is no /proc."""
    try:
        stat = _STAT.read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    fields = stat[stat.rindex(")") + 2 :].split()  # the name in parentheses is the second field, and may hold anything
    started_s = int(fields[_START_TIME_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
