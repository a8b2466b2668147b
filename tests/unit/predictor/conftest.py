"""Tiny ONNX models, made on the fly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from oip.messages import CallContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Shape = Sequence[int | str | None]

ROW = ("batch", 3)


def _tensors(names: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, shape) for name in names.split()]


def _identity(kind: int = TensorProto.FLOAT, shape: Shape | None = ROW) -> onnx.GraphProto:
    """`y` = `x`."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return helper.make_graph([node], "identity", _tensors("x", shape, kind), _tensors("y", shape, kind))


def _add(shape_a: Shape = ROW, shape_b: Shape = ROW) -> onnx.GraphProto:
    """`total` = `a` + `b`, `first` = `a`."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Identity", ["a"], ["first"])]
    inputs = _tensors("a", shape_a) + _tensors("b", shape_b)
    return helper.make_graph(nodes, "add", inputs, _tensors("total first", [None, 3]))


def _log() -> onnx.GraphProto:
    """`y` = ln `x`; zero gives minus infinity."""
    return helper.make_graph([helper.make_node("Log", ["x"], ["y"])], "log", _tensors("x", ROW), _tensors("y", ROW))


def _row() -> onnx.GraphProto:
    """`y` = the row of a 4 × 2 table with the index `x`; an index beyond it is the client's mistake."""
    table = numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "table")
    inputs, outputs = _tensors("x", ["batch"], TensorProto.INT64), _tensors("y", ["batch", 2])
    return helper.make_graph([helper.make_node("Gather", ["table", "x"], ["y"])], "row", inputs, outputs, [table])


def _square(side: int = 2) -> onnx.GraphProto:
    """`y` = `x` as a matrix of `side` columns: fails in the runtime where the number of elements does not allow it."""
    shape = numpy_helper.from_array(np.array([-1, side]), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inputs, outputs = _tensors("x", ["batch"]), _tensors("y", [None, side])
    return helper.make_graph([node], "square", inputs, outputs, [shape])


def _external(location: str) -> onnx.GraphProto:
    """`y` = `x` + three numbers that stand in the file `location`."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return helper.make_graph([node], "external", _tensors("x", ROW), _tensors("y", ROW), [weight])


def _sequence(only: str | None = None) -> onnx.GraphProto:
    """`y` = `x`, and `many`, a sequence, which the protocol cannot express; or only one of the two."""
    many = helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["x"], ["many"])]
    outputs = [one for one in (*_tensors("y", ROW), many) if only in {None, one.name}]
    return helper.make_graph(nodes, "sequence", _tensors("x", ROW), outputs)


def _scale(factor: float = 2.0) -> onnx.GraphProto:
    """`y` = `x` × `factor`: which version answered can be told from the answer."""
    weight = numpy_helper.from_array(np.full(3, factor, np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    return helper.make_graph([node], "scale", _tensors("x", ROW), _tensors("y", ROW), [weight])


def _mixing(operator: str = "Softmax") -> onnx.GraphProto:
    """`y` = softmax of `x` over the batch: a row's answer depends on its neighbours."""
    node = helper.make_node(operator, ["x"], ["y"], axis=0)
    return helper.make_graph([node], "mixing", _tensors("x", ROW), _tensors("y", ROW))


def _loop(rounds: int = 3) -> onnx.GraphProto:
    """`y` = `x` after so many rounds of a loop."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["before"], ["after"]), helper.make_node("Identity", ["go_in"], ["go_out"])],
        "body",
        [*_tensors("i", [], TensorProto.INT64), *_tensors("go_in", [], TensorProto.BOOL), *_tensors("before", ROW)],
        [*_tensors("go_out", [], TensorProto.BOOL), *_tensors("after", ROW)],
    )
    constants = [
        numpy_helper.from_array(np.array(rounds), "n"),
        numpy_helper.from_array(np.ones((), bool), "yes"),
    ]
    node = helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)
    return helper.make_graph([node], "loop", _tensors("x", ROW), _tensors("y", ROW), constants)


_SHAPES = (_identity, _add, _log, _row, _square, _external, _sequence, _scale, _mixing, _loop)
_GRAPHS = {graph.__name__.removeprefix("_"): graph for graph in _SHAPES}


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """Writes one of the graphs above, by its name, to a path, and returns the path."""

    def write(name: str, path: Path, *args: object, props: dict[str, str] | None = None, **options: object) -> Path:
        model = helper.make_model(
            _GRAPHS[name](*args, **options), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        )
        helper.set_model_props(model, props or {})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.fixture
def context() -> CallContext:
    """A call that has all the time in the world."""
    return CallContext(deadline_s=float("inf"), request_id="a-request")
