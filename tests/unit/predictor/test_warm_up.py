from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from onnx import TensorProto

from predictor.session import Session
from predictor.warm_up import is_bounded, measure, rows_are_independent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def make(tmp_path: Path, write_model: Callable[..., Path]) -> Callable[..., tuple[Session, Path]]:
    """Writes and loads a graph of conftest.py."""

    def make(name: str, *args: object) -> tuple[Session, Path]:
        path = write_model(name, tmp_path / "m.onnx", *args)
        return Session(path), path

    return make


def test_times(make: Callable[..., tuple[Session, Path]]) -> None:
    """Each batch size has its time; a model of fixed size has one, under its real size."""
    run_s = measure(make("identity")[0], (1, 2, 8))
    assert list(run_s) == [1, 2, 8]
    assert all(0 < seconds < 1 for seconds in run_s.values())
    assert list(measure(make("identity", TensorProto.FLOAT, [4, 3])[0], (1, 2, 8))) == [4]
    assert measure(make("identity")[0], ()) == {}


@pytest.mark.parametrize(
    ("graph", "independent"),
    [
        (("identity",), True),
        (("add",), True),
        (("identity", TensorProto.STRING, ["n"]), True),
        (("identity", TensorProto.INT64, ["n", 2]), True),
        (("log",), True),
        (("mixing",), False),
        (("square",), False),
        (("identity", TensorProto.FLOAT, [4, 3]), False),
        (("identity", TensorProto.FLOAT, []), False),
        (("add", ("n", 3), (1, 3)), False),
        (("row",), True),
    ],
)
def test_independent_rows(
    make: Callable[..., tuple[Session, Path]], graph: tuple[object, ...], *, independent: bool
) -> None:
    """Only models whose inputs and outputs all have a batch axis, and whose rows do not change each other's answers."""
    assert rows_are_independent(make(*graph)[0]) is independent


@pytest.mark.parametrize(
    ("graph", "bounded"),
    [
        (("identity",), True),
        (("identity", TensorProto.DOUBLE, [4, 3]), True),
        (("identity", TensorProto.FLOAT, ["n", "m"]), False),
        (("identity", TensorProto.INT64, ["n", 2]), False),
        (("identity", TensorProto.STRING, ["n"]), False),
        (("loop",), False),
    ],
)
def test_bounded_cost(make: Callable[..., tuple[Session, Path]], graph: tuple[object, ...], *, bounded: bool) -> None:
    """Whole numbers, text, free axes and loops can make a run of the same batch size take longer."""
    assert is_bounded(*make(*graph)) is bounded
