import ctypes
import gc

import pytest

from oip.allocator import keep_freed_memory, settle


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
