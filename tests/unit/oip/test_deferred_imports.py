"""Stand-ins for modules that a library imports and never needs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from oip.deferred_imports import deferring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

HEAVY = """
LOADED = True
class Frame:
    def __init__(self, size=1):
        self.size = size
def concat(*frames):
    return sum(frame.size for frame in frames)
"""
LIBRARY = """
import heavy
from heavy.parts import Part

def as_frame(size) -> heavy.Frame:
    return heavy.Frame(size=size)

def is_frame(thing) -> bool:
    return isinstance(thing, heavy.Frame)

def total(*frames) -> int:
    return heavy.concat(*frames)

def part() -> Part:
    return Part()
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A library that was imported without the heavy package that it imports."""
    for name, text in {
        "heavy/__init__.py": HEAVY,
        "heavy/parts.py": "class Part:\n    pass\n",
        "library.py": LIBRARY,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with deferring("heavy"):
        imported = importlib.import_module("library")
    yield imported
    for name in ("heavy", "heavy.parts", "library"):
        sys.modules.pop(name, None)


def test_nothing_is_loaded_until_it_is_called(library: ModuleType) -> None:
    """Importing the library, with annotations that name the heavy classes, loads none of them."""
    assert library.as_frame.__annotations__["return"].__name__ == "Frame"
    assert not library.is_frame(3)
    assert "heavy" not in sys.modules


def test_a_call_loads_the_real_module(library: ModuleType) -> None:
    """Classes and functions behave like the real ones from their first call on."""
    frame = library.as_frame(5)
    heavy = importlib.import_module("heavy")
    assert type(frame) is heavy.Frame
    assert library.is_frame(frame)
    assert not library.is_frame("frame")
    assert library.total(frame, frame) == 10
    assert type(library.part()) is importlib.import_module("heavy.parts").Part


@pytest.mark.usefixtures("library")
def test_others_import_the_real_module() -> None:
    """Whoever imports the module after the block gets it whole, its submodules included."""
    assert importlib.import_module("heavy").LOADED
    assert importlib.import_module("heavy.parts").Part


def test_what_is_loaded_already_stays(library: ModuleType) -> None:
    """A module that somebody else imported before is used as it is."""
    real = importlib.import_module("heavy")
    del sys.modules["library"]
    with deferring("heavy"):
        again = importlib.import_module("library")
    assert again is not library
    assert again.heavy is real


def test_names_that_a_module_may_lack_are_lacking() -> None:
    """Python asks modules for special names, and must not be given classes for them."""
    with deferring("never_there"):
        stand_in = importlib.import_module("never_there")
    assert not hasattr(stand_in, "__wrapped__")
    with pytest.raises(ModuleNotFoundError, match="never_there"):
        stand_in.anything()


@pytest.mark.parametrize("room", ["predictor", "transformer"])
def test_a_server_starts_without_the_heavy_half_of_the_sdk(room: str) -> None:
    """Neither pandas nor the Kubernetes client is loaded by the import of a whole component."""
    script = (
        f"import sys, {room}.__main__\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'pandas', 'kubernetes', 'google.auth'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
