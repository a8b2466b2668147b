import ctypes

import pytest

from oip.allocator import keep_freed_memory


def test_glibc_takes_both_limits() -> None:
    """Where there is mallopt, it returns 1: it knows both settings."""
    assert keep_freed_memory() is hasattr(ctypes.CDLL(None), "mallopt")


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mallopt nothing is set, and nothing fails."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False
