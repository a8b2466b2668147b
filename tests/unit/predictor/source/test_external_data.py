from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.external_data import is_inside, names_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("location", "names"),
    [
        ("w.bin", {"w.bin"}),
        ("./data/../w.bin", {"w.bin"}),
        ("d" * 300 + "/w", {"d" * 300 + "/w"}),
        ("../w.bin", set()),
        ("data/../../w.bin", set()),
        ("/etc/passwd", set()),
        (".", set()),
    ],
)
def test_names_of_external_data(
    tmp_path: Path, write_model: Callable[..., Path], location: str, names: set[str]
) -> None:
    """Names are normalised; those that leave the folder are not among them."""
    assert names_in(write_model("external", tmp_path / "model.onnx", location)) == names


def test_broken_models_name_nothing(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """However a file is cut off, looking for names does not fail."""
    whole = write_model("external", tmp_path / "model.onnx", "w.bin").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        assert names_in(tmp_path / "cut") <= {"w", "w.", "w.b", "w.bi", "w.bin"}


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/"]), max_size=6).map("/".join))
def test_inside_means_inside(name: str) -> None:
    """Walked step by step, a name that is called inside is never above its folder, and ends below it."""
    depth, lowest = 0, 0
    for part in name.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        lowest = min(lowest, depth)
    if is_inside(name):
        assert not name.startswith("/")
        assert lowest == 0
        assert depth > 0
