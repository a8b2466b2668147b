"""The trained network as an ONNX graph, from normalised log powers to degrees, metres and radians.

What belongs here: the graph. What does not: what its numbers are (`train`, `calibrate`) or mean (`contract`).

Positions leave as FP64, because FP32 resolves a latitude of 45° to 0.4 m only; the two products in double precision
cost less than a microsecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from reference.contract import FEATURE_MEAN, FEATURE_STD, METADATA_KEY, contract_text
from reference.features import LAYOUT
from reference.geometry import POLYNOMIAL_UNIT_M, polynomial_exponents
from reference.network import LENGTH_M
from reference.pooling import selection
from reference.simulate import FRAME, RADIO
from reference.train import SMALLEST_MW

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from reference.calibrate import Calibration
    from reference.train import Trained

OPSET, IR_VERSION = 18, 9
INPUT = "log_mel"


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Everything that the graph is made of.

    Attributes:
        trained: The network.
        calibration: The factor on the sigmas and the table k(p), which goes into the contract.
        oriented: False drops the ellipse's orientation: sigmas of east and north, theta zero.
    """

    trained: Trained
    calibration: Calibration
    oriented: bool = True


class Graph:
    """Collects nodes and constants; every method returns the name of the tensor that it adds."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A constant of the graph."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: int | GraphProto) -> str:
        """One node with one output."""
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def column(self, matrix: str, index: int) -> str:
        """Column `index` of a [B,C] tensor as [B,1]."""
        return self.add("Gather", matrix, self.constant([index], np.int64), axis=1)


def export(model: Model, prelude: Callable[[Graph, str], str] | None = None) -> ModelProto:
    """Write the graph; its metadata carry the contract.

    Args:
        model: What it is made of.
        prelude: Adds nodes between the input and the model: from the graph and the input's name to the name of the
            tensor that the model reads instead.
    """
    graph = Graph()
    entry = prelude(graph, INPUT) if prelude else INPUT
    outputs = _network(graph, _log_powers(graph, entry), model.trained)
    _position(graph, outputs)
    _uncertainty(graph, outputs, model)
    graph.add("Sigmoid", graph.column(outputs, 5), output="confidence")
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "localization", _inputs(), _outputs(), graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="heimdall-reference",
    )
    helper.set_model_props(proto, {METADATA_KEY: contract_text(model.calibration.ellipse_scale)})
    checker.check_model(proto, full_check=True)
    return proto


def _inputs() -> list[ValueInfoProto]:
    shape: list[str | int | None] = ["batch", len(FRAME.receivers), LAYOUT.frames, LAYOUT.bands]
    return [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)]


def _outputs() -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info("position", TensorProto.DOUBLE, ["batch", 2]),
        helper.make_tensor_value_info("uncertainty", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["batch", 1]),
    ]


def _log_powers(graph: Graph, entry: str) -> str:
    """Undo normalisation, logarithm and floor; ln of the in-band and out-of-band powers as [B,2R]."""
    scaled = graph.add("Mul", entry, graph.constant(FEATURE_STD))
    bands = graph.add("Exp", graph.add("Add", scaled, graph.constant(FEATURE_MEAN)))
    mean = graph.add("ReduceMean", bands, graph.constant([2], np.int64), keepdims=0)
    picked = graph.add("MatMul", mean, graph.constant(selection()))
    floor = graph.constant(LAYOUT.floor_mw * selection().sum(axis=0))
    power = graph.add("Max", graph.add("Sub", picked, floor), graph.constant(SMALLEST_MW))
    shape = graph.constant([0, 2 * len(FRAME.receivers)], np.int64)
    return graph.add("Reshape", graph.add("Log", power), shape)


def _network(graph: Graph, logarithms: str, trained: Trained) -> str:
    """The three layers; the standardisation of the inputs is folded into the first."""
    w1, b1, *rest = trained.network.weights
    first = w1 / trained.std[:, None]
    layers: list[npt.ArrayLike] = [first, b1 - trained.mean @ first, *rest]
    value = logarithms
    for index in range(0, len(layers), 2):
        value = graph.add("Gemm", value, graph.constant(layers[index]), graph.constant(layers[index + 1]))
        value = graph.add("Tanh", value) if index < len(layers) - 2 else value
    return value


def _position(graph: Graph, outputs: str) -> None:
    """Latitude and longitude: Σ c_ij·e^i·n^j in double precision, e and n in units of 100 km."""
    plane = graph.add("Gather", outputs, graph.constant([0, 1], np.int64), axis=1)
    double = graph.add("Cast", plane, to=TensorProto.DOUBLE)
    unit = graph.add("Mul", double, graph.constant(LENGTH_M / POLYNOMIAL_UNIT_M, np.float64))
    exponents = np.array(polynomial_exponents(), dtype=np.float64)
    powers = graph.add(
        "Pow", graph.add("Unsqueeze", unit, graph.constant([1], np.int64)), graph.constant(exponents, np.float64)
    )
    east, north = (graph.add("Gather", powers, graph.constant(axis, np.int64), axis=2) for axis in (0, 1))
    coefficients = graph.constant(FRAME.polynomial(FRAME.box(RADIO.margin_m)), np.float64)
    graph.add("MatMul", graph.add("Mul", east, north), coefficients, output="position")


def _uncertainty(graph: Graph, outputs: str, model: Model) -> None:
    """Sigmas in metres and the angle of the major axis, from the closed form of the covariance."""
    east, cross, north = _covariance(graph, outputs, model.calibration.sigma_factor * LENGTH_M)
    if model.oriented:
        parts = _principal_axes(graph, east, cross, north)
    else:
        parts = [graph.add("Sqrt", east), graph.add("Sqrt", north), graph.add("Mul", cross, graph.constant(0.0))]
    graph.add("Concat", *parts, axis=1, output="uncertainty")


def _covariance(graph: Graph, outputs: str, unit_m: float) -> tuple[str, str, str]:
    """s_xx = e^{−2a}, s_xy = −b·e^{−2a−c}, s_yy = e^{−2c} + b²·e^{−2a−2c}: the inverse of LᵀL, in m²."""
    a, b, c = (graph.column(outputs, index) for index in (2, 3, 4))
    root_east = graph.add("Mul", graph.add("Exp", graph.add("Neg", a)), graph.constant(unit_m))
    own_north = graph.add("Mul", graph.add("Exp", graph.add("Neg", c)), graph.constant(unit_m))
    share = graph.add("Mul", graph.add("Mul", b, own_north), graph.constant(-1.0 / unit_m))
    induced = graph.add("Mul", share, root_east)
    cross = graph.add("Mul", root_east, induced)
    north = graph.add("Add", graph.add("Mul", own_north, own_north), graph.add("Mul", induced, induced))
    return graph.add("Mul", root_east, root_east), cross, north


def _principal_axes(graph: Graph, east: str, cross: str, north: str) -> list[str]:
    """Sigmas √λ₁ ≥ √λ₂ and the angle of the first axis, counter-clockwise from east.

    λ₁ = (s_xx + s_yy + h)/2 with h = √(d² + (2 s_xy)²), d = s_xx − s_yy; λ₂ = det/λ₁ does not cancel. The half angle
    of atan2(2 s_xy, d) is atan(2 s_xy/(h + d)) for d ≥ 0 and atan((h − d)/2 s_xy) otherwise: ONNX has no Atan2, and
    each form is used where its sum does not cancel.
    """
    two, half = graph.constant(2.0), graph.constant(0.5)
    difference, twice = graph.add("Sub", east, north), graph.add("Mul", cross, two)
    squares = graph.add("Add", graph.add("Mul", difference, difference), graph.add("Mul", twice, twice))
    root = graph.add("Sqrt", squares)
    major = graph.add("Mul", graph.add("Add", graph.add("Add", east, north), root), half)
    determinant = graph.add("Sub", graph.add("Mul", east, north), graph.add("Mul", cross, cross))
    minor = graph.add("Div", determinant, major)
    longer = graph.add("Add", root, graph.add("Abs", difference))
    wide = graph.add("GreaterOrEqual", difference, graph.constant(0.0))
    numerator = graph.add("Where", wide, twice, longer)
    denominator = graph.add("Where", wide, longer, _away_from_zero(graph, twice))
    return [
        graph.add("Sqrt", major),
        graph.add("Sqrt", minor),
        graph.add("Atan", graph.add("Div", numerator, denominator)),
    ]


def _away_from_zero(graph: Graph, value: str) -> str:
    """`value`, or one square metre of covariance where it is smaller than that."""
    small = graph.add("Less", graph.add("Abs", value), graph.constant(1.0))
    return graph.add("Where", small, graph.constant(1.0), value)
