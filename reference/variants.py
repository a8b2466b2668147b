"""The models that are made for tests and demonstrations: one good, one better, and six that fail in their own way.

What belongs here: what sets each variant apart, and their files. What does not: training and the graph themselves.

    reference      trained in a few seconds, calibrated
    better         wider and trained longer: a higher log-likelihood on the same cases
    overconfident  sigmas halved while the table k(p) stays: ellipses hold too little
    no_theta       ellipses without orientation: sigmas of east and north, theta zero
    slow           the reference's answers, about 0.3 s later
    corrupt        a file that is cut off
    crashing       survives constant inputs and kills its process at any other (x86-64)
    never_ready    loads, and never ends its first run
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper

from reference.calibrate import calibrate
from reference.export import Graph, Model, export
from reference.stamped import locked, make_once
from reference.train import Training, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REFERENCE = Training(seed=1, windows=7_000, steps=3_000, batch=256, width=96, learning_rate=8e-3)
BETTER = Training(seed=2, windows=10_000, steps=6_000, batch=512, width=128, learning_rate=8e-3)

NAMES = ("reference", "better", "overconfident", "no_theta", "slow", "corrupt", "crashing", "never_ready")

_OVERCONFIDENCE = 0.5
_SLOW_ITERATIONS = 300_000
_ENDLESS = int(np.iinfo(np.int64).max)


def prepare(directory: Path, names: Sequence[str] = ("reference",)) -> dict[str, Path]:
    """Make `directory/models/NAME/model.onnx` for every name unless it is there already; returns the folders.

    A file counts as there when it was made by this code. Safe to call from several processes.
    """
    with locked(directory):
        paths = {name: directory / "models" / name / "model.onnx" for name in names}
        for name, path in paths.items():
            make_once(path, name, functools.partial(_write, name))
    return {name: path.parent for name, path in paths.items()}


def variant(name: str) -> bytes:
    """The bytes of one variant's file; `ValueError` for a name that there is none of."""
    if name not in NAMES:
        raise ValueError(f"there is no variant '{name}'; there are {', '.join(NAMES)}")
    if name == "corrupt":
        whole = variant("reference")
        return whole[: len(whole) // 2]
    return bytes(_proto(name).SerializeToString())


def _write(name: str, path: Path) -> None:
    path.write_bytes(variant(name))


def _proto(name: str) -> ModelProto:
    reference = calibrated(BETTER if name == "better" else REFERENCE)
    match name:
        case "overconfident":
            factor = reference.calibration.sigma_factor * _OVERCONFIDENCE
            narrow = dataclasses.replace(reference.calibration, sigma_factor=factor)
            return export(dataclasses.replace(reference, calibration=narrow))
        case "no_theta":
            return export(dataclasses.replace(reference, oriented=False))
        case "slow":
            return export(reference, functools.partial(_looping, iterations=_SLOW_ITERATIONS))
        case "never_ready":
            return export(reference, functools.partial(_looping, iterations=_ENDLESS))
        case "crashing":
            return export(reference, _trapping)
        case _:
            return export(reference)


@functools.lru_cache(maxsize=4)
def calibrated(settings: Training) -> Model:
    """A trained and calibrated model."""
    trained = train(settings)
    return Model(trained, calibrate(trained))


def _looping(graph: Graph, entry: str, *, iterations: int) -> str:
    """Count in a loop that no optimiser can leave out, because its step comes from the input; then add nothing."""
    boolean, scalar = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Add", ["count", "step"], ["next_count"]),
            helper.make_node("Identity", ["condition"], ["next_condition"]),
        ],
        "counting",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", boolean, []),
            helper.make_tensor_value_info("count", scalar, []),
        ],
        [
            helper.make_tensor_value_info("next_condition", boolean, []),
            helper.make_tensor_value_info("next_count", scalar, []),
        ],
    )
    largest = graph.add("ReduceMax", entry, keepdims=0)
    graph.add("Min", graph.constant(1.0), largest, output="step")
    trips = graph.constant(iterations, np.int64)
    count = graph.add("Loop", trips, "", graph.constant(0.0), body=body)
    return _plus_nothing(graph, entry, count)


def _trapping(graph: Graph, entry: str) -> str:
    """Divide the smallest integer by −1 unless all inputs are equal.

    The quotient does not fit, and x86-64's IDIV then raises #DE (Intel SDM vol. 2A, IDIV), which Linux delivers as
    SIGFPE. ONNX Runtime checks for divisors of zero, not for this one. ARM has no such trap: there the variant is
    a copy of the reference.
    """
    largest, smallest = graph.add("ReduceMax", entry, keepdims=0), graph.add("ReduceMin", entry, keepdims=0)
    constant_input = graph.add("Equal", largest, smallest)
    one = graph.constant(1, np.int64)
    dividend = graph.add("Where", constant_input, one, graph.constant(np.iinfo(np.int64).min, np.int64))
    divisor = graph.add("Where", constant_input, one, graph.constant(-1, np.int64))
    quotient = graph.add("Cast", graph.add("Div", dividend, divisor), to=TensorProto.FLOAT)
    return _plus_nothing(graph, entry, quotient)


def _plus_nothing(graph: Graph, entry: str, value: str) -> str:
    return graph.add("Add", entry, graph.add("Mul", value, graph.constant(0.0)))
