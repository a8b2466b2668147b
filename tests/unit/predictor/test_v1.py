from __future__ import annotations

import numpy as np
import pytest

from oip.messages import DTYPES, Tensor, TensorMetadata
from predictor import v1
from predictor.errors import InferenceFailed, SignatureError


def _inputs(datatype: str) -> list[TensorMetadata]:
    return [TensorMetadata("x", datatype, (-1,))]


@pytest.mark.parametrize(
    ("datatype", "rows"),
    [
        ("FP32", [[1.5, 2], [3, -4e3]]),
        ("FP64", [1, 2]),
        ("INT64", [[-(2**63)], [2**63 - 1]]),
        ("UINT64", [2**64 - 1]),
        ("UINT8", [0, 255]),
        ("BOOL", [True, False]),
        ("FP32", []),
    ],
)
def test_rows_become_a_tensor(datatype: str, rows: list[object]) -> None:
    """JSON rows become an array of the input's type, without loss."""
    tensor = v1.decode({"instances": rows, "signature_name": "x"}, _inputs(datatype))
    assert (tensor.name, tensor.array.dtype) == ("x", DTYPES[datatype])
    assert tensor.array.tolist() == rows


def test_text_rows() -> None:
    """Text becomes UTF-8 bytes and comes back as text."""
    tensor = v1.decode({"instances": [["a", ""], ["é", "b"]]}, _inputs("BYTES"))
    assert tensor.array.tolist() == [[b"a", b""], ["é".encode(), b"b"]]
    assert v1.encode([tensor]) == {"predictions": [["a", ""], ["é", "b"]]}


@pytest.mark.parametrize(
    ("datatype", "payload", "message"),
    [
        ("FP32", b"\0", "instances: missing"),
        ("FP32", {"inputs": []}, "instances: missing"),
        ("FP32", {"instances": 3}, "instances: missing, or not a list"),
        ("FP32", {"instances": [[1], [1, 2]]}, "the rows differ in shape"),
        ("FP32", {"instances": ["1"]}, "not all values are FP32"),
        ("FP32", {"instances": [True]}, "not all values are FP32"),
        ("FP32", {"instances": [None]}, "not all values are FP32"),
        ("INT32", {"instances": [1.5]}, "not all values are INT32"),
        ("FP32", {"instances": [1e39]}, "out of the range of FP32"),
        ("FP16", {"instances": [65520]}, "out of the range of FP16"),
        ("INT8", {"instances": [128]}, "out of the range of INT8"),
        ("UINT8", {"instances": [-1]}, "out of the range of UINT8"),
        ("INT64", {"instances": [2**63]}, "out of the range of INT64"),
        ("INT64", {"instances": [2**70]}, "not all values are INT64"),
        ("BYTES", {"instances": [1]}, "not all values are BYTES"),
    ],
)
def test_what_is_refused(datatype: str, payload: object, message: str) -> None:
    """Nothing is converted that JSON says differently, and nothing overflows silently."""
    with pytest.raises(SignatureError, match=message):
        v1.decode(payload, _inputs(datatype))


def test_models_with_several_inputs_are_not_served() -> None:
    """V1 has no names for inputs."""
    with pytest.raises(SignatureError, match="one input only"):
        v1.decode({"instances": []}, _inputs("FP32") * 2)


def test_several_outputs_become_objects() -> None:
    """Each row is one object with the outputs' names."""
    outputs = [Tensor("a", np.array([[1, 2], [3, 4]])), Tensor("b", np.array([True, False]))]
    assert v1.encode(outputs) == {"predictions": [{"a": [1, 2], "b": True}, {"a": [3, 4], "b": False}]}
    assert v1.encode([Tensor("a", np.array(7))]) == {"predictions": [7]}


def test_outputs_that_rows_cannot_express() -> None:
    """Outputs of different lengths are refused; NaN is a failure, never `null`."""
    with pytest.raises(SignatureError, match="different lengths"):
        v1.encode([Tensor("a", np.zeros(2)), Tensor("b", np.zeros(3))])
    with pytest.raises(InferenceFailed, match="'a' is not finite"):
        v1.encode([Tensor("a", np.array([np.nan]))])
