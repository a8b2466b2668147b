import asyncio
import ctypes
import gc
import subprocess
import sys

import pytest

from oip.allocator import give_back_regularly, keep_freed_memory, settle

BURST = """
import asyncio
import psutil
from oip.allocator import give_back_regularly, keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss

keep_freed_memory()
before, burst, stays = resident(), [], []
for _ in range(150):
    burst.append(b"x" * 200_000)
    stays.append(b"y" * 1_000)
del burst
left = resident() - before

async def once():
    giving_back = asyncio.create_task(give_back_regularly(0.01))
    await asyncio.sleep(0.5)
    assert not giving_back.done()
    giving_back.cancel()

asyncio.run(once())
print(left, resident() - before)
"""


def test_glibc_takes_both_limits() -> None:
    """Where there is mallopt, it returns 1: it knows both settings."""
    assert keep_freed_memory() is hasattr(ctypes.CDLL(None), "mallopt")


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mallopt nothing is set, and nothing fails."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False


def test_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is exempt from collection; without malloc_trim nothing fails."""
    try:
        settle()
        assert gc.get_freeze_count() > 0
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
        assert settle() is False
    finally:
        gc.unfreeze()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_a_burst_left_between_blocks_in_use_goes_back() -> None:
    """A good part of 30 MB stays with the process, pinned by 150 small blocks, and goes back the next time."""
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, timeout=60, check=True)
    left, later = map(int, done.stdout.split())
    assert left > 5e6
    assert later < left / 2


async def test_nothing_to_give_back_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without malloc_trim the task ends by itself."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    async with asyncio.timeout(5):
        await give_back_regularly()
