"""One request's share of a run of the model, and runs that serve several requests at once.

What belongs here: gathering rows, running, scattering the results. What does not: who waits for it and in which thread
(`workers`), and whether it pays (`plan`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from predictor.errors import InferenceFailed, SignatureError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from oip.messages import Array


Results = tuple["Array", ...]
"""One array for each output asked for."""


class Runnable(Protocol):
    """What runs: see `session.Session.run`."""

    def run(self, inputs: Mapping[str, Array], output_names: Sequence[str]) -> Results:
        """Compute the outputs of these names."""
        ...


class Work(NamedTuple):
    """What one request asks of a model.

    Attributes:
        model: Runs it.
        inputs: The request's tensors by name.
        output_names: What is asked for.
        rows: Size of the first axis, the largest of all inputs; 1 for scalars.
        deadline_s: After this moment nobody waits any more, on the clock of `time.monotonic()`.
        batch_key: Requests of equal keys may share a run; None for one that shares with nobody.
    """

    model: Runnable
    inputs: Mapping[str, Array]
    output_names: Sequence[str]
    rows: int = 1
    deadline_s: float = float("inf")
    batch_key: Hashable = None


class Execution(NamedTuple):
    """One run: how many rows, and when it began, had its inputs, had its outputs, and ended; `time.perf_counter()`."""

    rows: int
    began_s: float
    gathered_s: float
    ran_s: float
    ended_s: float


def execute(works: Sequence[Work]) -> tuple[list[Results | Exception], list[Execution]]:
    """Run the model once for all of `works`, which have one batch key, or for the only one.

    A run that fails as a whole is done again one by one, so that nobody suffers from a neighbour's request.

    Returns:
        For each work its results or its error; and the runs that succeeded.
    """
    began_s = time.perf_counter()
    if len(works) == 1:
        return _execute_alone(works[0], began_s)
    try:
        inputs = _gathered(works)
        gathered_s = time.perf_counter()
        results = works[0].model.run(inputs, works[0].output_names)
        ran_s = time.perf_counter()
        scattered = _scattered(results, [work.rows for work in works])
    except (SignatureError, InferenceFailed):
        alone = [_execute_alone(work, time.perf_counter()) for work in works]
        return [outcome for outcomes, _ in alone for outcome in outcomes], [run for _, runs in alone for run in runs]
    rows = sum(work.rows for work in works)
    return scattered, [Execution(rows, began_s, gathered_s, ran_s, time.perf_counter())]


def _execute_alone(work: Work, began_s: float) -> tuple[list[Results | Exception], list[Execution]]:
    try:
        results = work.model.run(work.inputs, work.output_names)
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever waits for the result
        return [error], []
    ended_s = time.perf_counter()
    return [results], [Execution(work.rows, began_s, began_s, ended_s, ended_s)]


def _gathered(works: Sequence[Work]) -> dict[str, Array]:
    return {name: np.concatenate([work.inputs[name] for work in works]) for name in works[0].inputs}


def _scattered(results: Results, rows: Sequence[int]) -> list[Results | Exception]:
    """Each request's rows, as views of the batch's outputs.

    Raises:
        InferenceFailed: An output has not one row for each row of the inputs.
    """
    total = sum(rows)
    if any(len(one) != total for one in results):
        raise InferenceFailed(f"an output of a batch of {total} has not {total} rows")
    ends = np.cumsum(rows).tolist()
    return [tuple(one[end - size : end] for one in results) for size, end in zip(rows, ends, strict=True)]
