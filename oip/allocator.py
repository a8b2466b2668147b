"""The process's memory: what is kept for the next request, and what is given back once the process has started.

What belongs here: the C library's allocator and the garbage collector. What does not: who uses memory for what.

By default glibc returns a freed block of a few hundred kilobytes to the kernel and fetches it anew for the next body,
page by page. Keeping it made a JSON request of 313 kB 15 % cheaper (1187 → 1010 µs of CPU, 16 connections).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""mallopt(3)."""

KEPT_BYTES = 64 * 1024 * 1024
"""Free memory at the end of a heap goes back to the kernel beyond this; each thread may have a heap of its own. The
bodies of a hundred requests at once, 31 MB, lie within: with 16 MiB each of them took 75 page faults (JSON of 313 kB;
1138 → 1002 µs of CPU). What is not used any more goes back within `GIVE_BACK_EVERY_S`."""

GIVE_BACK_EVERY_S = 60.0
"""What lies between blocks in use goes back so often. Whatever stays after a burst, such as a connection, keeps the end
of the heap from shrinking: 80 bodies of 0.1 to 0.9 MB at once left 17 MB behind, and 1.2 MB after malloc_trim(3)."""

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
    return bool(_trim())


async def give_back_regularly(every_s: float = GIVE_BACK_EVERY_S) -> None:
    """Give free memory back from time to time, in a thread, until cancelled; returns at once without glibc."""
    while True:
        if await asyncio.to_thread(_trim) is None:
            return
        await asyncio.sleep(every_s)


def _trim() -> bool | None:
    """Whether the C library had memory to give back; None where it is not glibc."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return bool(malloc_trim(0))
