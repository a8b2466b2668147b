"""Running a model before its first client does: for the first allocations, and to learn how it is best run.

What belongs here: the inputs of these runs, their times, and what they tell. What does not: what follows from it
(`plan`).

The inputs are zeros, False and empty text: the same for every model, and nothing that a model could mistake for a
client's data. Dynamic axes are 1, the first axis the batch size.
"""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING

import numpy as np

from oip.messages import DTYPES
from predictor.errors import InferenceFailed, SignatureError, WarmUpFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oip.messages import Array
    from predictor.session import Session

_REPEAT_BELOW_S = 0.02
_REPETITIONS = 7
"""Short runs are timed several times, and the shortest counts: everything else on the machine can only add to it."""

_FLOATS = ("FP16", "FP32", "FP64")
_LOOPS = (b"\x22\x04Loop", b"\x22\x04Scan")
"""How the operators' names stand in the file: NodeProto.op_type is field 4, of length 4 here (onnx.proto)."""


def measure(session: Session, batch_sizes: Sequence[int]) -> dict[int, float]:
    """Run once per batch size, short runs repeatedly; what memory the larger batches needed is given back.

    Args:
        session: The model.
        batch_sizes: Of a model whose batch size is fixed, only the first counts.

    Returns:
        Seconds of the shortest run by its real batch size.

    Raises:
        WarmUpFailed: The model cannot run such an input.
    """
    names = [one.name for one in session.outputs]
    dynamic = any(axes and not isinstance(axes[0], int) for axes in session.axes.values())
    run_s: dict[int, float] = {}
    for size in batch_sizes if dynamic else batch_sizes[:1]:
        inputs = zeros(session, size)
        try:
            session.run(inputs, names)
            run_s[rows_of(inputs)] = _shortest(session, inputs, names)
        except (SignatureError, InferenceFailed) as error:
            raise WarmUpFailed(f"the model fails on a warm-up batch of {size} (all zeros): {error}") from error
    if len(run_s) > 1:
        session.run(zeros(session, batch_sizes[0]), names, shrink=True)
    return run_s


def _shortest(session: Session, inputs: dict[str, Array], names: Sequence[str]) -> float:
    shortest_s = float("inf")
    for _ in range(_REPETITIONS):
        started_s = time.perf_counter()
        session.run(inputs, names)
        shortest_s = min(shortest_s, time.perf_counter() - started_s)
        if shortest_s > _REPEAT_BELOW_S:
            break
    return shortest_s


def rows_of(inputs: dict[str, Array]) -> int:
    """The size of the first axis; 1 for a scalar."""
    first = next(iter(inputs.values()), None)
    return first.shape[0] if first is not None and first.ndim else 1


def zeros(session: Session, batch_size: int) -> dict[str, Array]:
    """Inputs of zeros; an axis that bears the name of a first axis elsewhere has that size too."""
    batch_names = {axes[0] for axes in session.axes.values() if axes and isinstance(axes[0], str)}

    def size(position: int, axis: int | str | None) -> int:
        if isinstance(axis, int):
            return axis
        return batch_size if position == 0 or axis in batch_names else 1

    shapes = {name: [size(i, axis) for i, axis in enumerate(axes)] for name, axes in session.axes.items()}
    return {
        one.name: np.full(shapes[one.name], b"" if one.datatype == "BYTES" else 0, DTYPES[one.datatype])
        for one in session.inputs
    }


def rows_are_independent(session: Session) -> bool:
    """Whether requests may be computed together: each row's outputs are those that it has alone.

    The signature has to allow it (every first axis dynamic, and the inputs' the same), and a batch of a row of zeros
    and one of ones has to give what the two give alone. The test finds rows that are mixed, as by a normalisation
    over the batch, and outputs whose first axis is something else.
    """
    axes = [axes[:1] for axes in session.axes.values()]
    if not all(axes) or len(set(axes)) > 1 or isinstance(axes[0][0], int):
        return False
    if not all(one.shape and one.shape[0] == -1 for one in session.outputs):
        return False
    names = [one.name for one in session.outputs]
    row = zeros(session, 1)
    other = {name: one if one.dtype.hasobject else one + np.ones((), one.dtype) for name, one in row.items()}
    both = {name: np.concatenate([row[name], other[name]]) for name in row}
    try:
        alone = zip(session.run(row, names), session.run(other, names), strict=True)
        together = session.run(both, names)
    except (SignatureError, InferenceFailed):
        return False
    return all(_same(np.concatenate(pair), whole) for pair, whole in zip(alone, together, strict=True))


def _same(alone: Array, together: Array) -> bool:
    if alone.shape != together.shape:
        return False
    if alone.dtype.kind != "f":
        return bool(np.array_equal(alone, together))
    return bool(np.allclose(alone, together, rtol=1e-3, atol=1e-5, equal_nan=True))


def is_bounded(session: Session, path: Path) -> bool:
    """Whether the cost of a run follows from the size of its batch alone.

    No axis but the first may vary, no input may be a whole number (it could set the length of a loop or the size of
    an output) or text, and there must be no loop. What is left, a loop's length computed from floating-point values
    by an operator hidden elsewhere, is caught by `plan.InlineRuns`.
    """
    fixed = all(isinstance(axis, int) for axes in session.axes.values() for axis in axes[1:])
    return fixed and all(one.datatype in _FLOATS for one in session.inputs) and not _has_loop(path)


def _has_loop(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(loop) >= 0 for loop in _LOOPS)
