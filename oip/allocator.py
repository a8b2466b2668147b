"""The process's memory: what is kept for the next request, and what is given back once the process has started.

What belongs here: the C library's allocator and the garbage collector. What does not: who uses memory for what.

By default glibc returns a freed block of a few hundred kilobytes to the kernel and fetches it anew for the next body,
page by page. Keeping it made a JSON request of 313 kB 15 % cheaper (1187 → 1010 µs of CPU, 16 connections).
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""mallopt(3)."""

KEPT_BYTES = 16 * 1024 * 1024
"""Free memory beyond this goes back to the kernel."""

HEAP_BLOCK_BYTES = 4 * 1024 * 1024
"""Larger blocks still come from the kernel and go back to it at once, so that one large request leaves nothing."""


def keep_freed_memory() -> bool:
    """Set both limits for this process; False where the C library is not glibc, which then does as it likes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def settle() -> bool:
    """Give back what only the start needed; to be called once, when everything that stays is there.

    The modules and models that stay are taken out of the garbage collector's sight, so that no collection looks at
    their quarter of a million objects again.

    Returns:
        Whether the C library had memory to give back; False where it is not glibc.
    """
    gc.collect()
    gc.freeze()
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(malloc_trim(0))
