"""The fuzz targets, and the corpus that they have grown."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

HERE = Path(__file__).parent
TARGETS = runpy.run_path(str(HERE / "targets.py"))["TARGETS"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `target` and `corpus` runs once for each target, with all that was kept for it."""
    if {"target", "corpus"} <= set(metafunc.fixturenames):
        cases = [(target, sorted((HERE / "corpus" / name).glob("*"))) for name, target in TARGETS.items()]
        metafunc.parametrize(("target", "corpus"), cases, ids=TARGETS)
