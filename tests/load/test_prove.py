"""Short forms of the long proofs: a few seconds of each, without judging the machine's speed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the program redis-server"),
    pytest.mark.timeout(300),
]


def _run(prove: Path, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(prove), *words]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=280, check=False)


def test_the_load_proof(prove: Path, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Every run of it is in the report with nothing failed or wrong, hits among the repeats, and the CPU they took."""
    sizes = ["--seconds", "2", "--point-seconds", "1", "--clients", "8", "--percents", "50", "--steps", "1"]
    done = _run(prove, pytestconfig.rootpath, "load", "--out", str(tmp_path), *sizes, "--batches", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    runs: list[dict[str, Any]] = orjson.loads((tmp_path / "report.json").read_bytes())["runs"]
    assert [one["name"] for one in runs] == ["warm-up", "closed 8 clients", "open 50 %", "clients 1", "batch 4"]
    for one in runs:
        assert (one["figures"]["failed"], one["wrong"]) == (0, 0), one
        assert set(one["cpu_ms"]) == {"redis", "predictor", "transformer"}
        assert one["cpu_ms"]["transformer"] > 0
        assert (tmp_path / one["records"]).exists()
    assert set(runs[1]["forms"]) == {"fp32", "int16", "json", "rest"}
    assert runs[2]["figures"]["hit_rate_of_repeats"] > 0.8
    table = [line.count("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(runs)
    assert len(set(table)) == 1, "every row has a cell for every column"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert all(one["name"] in page for one in runs)
    assert "locust" in (tmp_path / "locust.html").read_text().lower()


def test_the_soak_proof(prove: Path, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """It looks at both components and shows both of their quantities; seconds cannot say whether they are flat."""
    short = ("--seconds", "4", "--rate", "20", "--warm-up-seconds", "2", "--rest-seconds", "1")
    done = _run(prove, pytestconfig.rootpath, "soak", "--out", str(tmp_path), *short)
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert [one["figures"]["failed"] for one in report["runs"]] == [0, 0], done.stdout + done.stderr
    assert [one["part"] for one in report["growth"]] == ["predictor", "transformer"]
    assert all(one["memory"]["mean"] > 1e8 and one["descriptors_after"] > 5 for one in report["growth"])
    assert (tmp_path / "report.html").read_text().count("<svg") == 4
    assert "descriptors" in done.stdout
