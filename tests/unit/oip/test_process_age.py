"""The age of a process."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from oip import process_age


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux has /proc")
def test_the_age_counts_from_the_start() -> None:
    """A process that waited half a second before it looked is that old, whatever its name is."""
    script = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) b (c', 0, 0, 0); time.sleep(0.5);"
        "from oip.process_age import process_age_s; print(process_age_s())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert 0.5 <= float(done.stdout) < 20.0


def test_elsewhere_it_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without /proc the log says `nan`, and the server starts all the same."""
    monkeypatch.setattr(process_age, "_STAT", tmp_path / "missing")
    assert math.isnan(process_age.process_age_s())
