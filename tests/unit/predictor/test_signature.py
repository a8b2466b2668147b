from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oip.messages import DTYPES, RequestedOutput, Tensor, TensorMetadata
from predictor.errors import InferenceFailed, SignatureError
from predictor.signature import Signature

SIGNATURE = Signature.of(
    [TensorMetadata("a", "FP32", (-1, 3)), TensorMetadata("n", "INT64", ())],
    [TensorMetadata("y", "FP32", (-1,)), TensorMetadata("z", "BYTES", (-1,))],
)
A = Tensor("a", np.zeros((2, 3), np.float32))
N = Tensor("n", np.zeros((), np.int64))


def test_a_fitting_request() -> None:
    """Inputs in any order become the model's arrays, uncopied."""
    arrays = SIGNATURE.arrays([N, A])
    assert arrays["a"] is A.array
    assert arrays["n"] is N.array


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([A], "inputs: missing 'n'"),
        ([], "inputs: missing 'a', 'n'"),
        ([A, N, N], "inputs: an input is given twice"),
        ([A, Tensor("x", A.array)], r"inputs\[1\]\.name: the model has no input 'x'; it has 'a', 'n'"),
        ([N, Tensor("a", np.zeros((2, 3)))], r"inputs\[1\]\.datatype: 'a' is FP32, not FP64"),
        ([Tensor("a", np.zeros((2, 4), np.float32))], r"inputs\[0\]\.shape: 'a' is \[-1, 3\], not \[2, 4\]"),
        ([Tensor("a", np.zeros(3, np.float32))], r"inputs\[0\]\.shape: 'a' is \[-1, 3\], not \[3\]"),
        ([Tensor("a", np.zeros((1, 2, 3), np.float32))], r"inputs\[0\]\.shape"),
    ],
)
def test_what_does_not_fit(tensors: list[Tensor], message: str) -> None:
    """The message names the field, what the model wants and what came."""
    with pytest.raises(SignatureError, match=message):
        SIGNATURE.arrays(tensors)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=4))
def test_shapes(expected: list[int], shape: list[int]) -> None:
    """A shape fits exactly if the ranks are the same and every fixed axis has its size."""
    signature = Signature.of([TensorMetadata("x", "UINT8", tuple(expected))], [])
    fits = len(shape) == len(expected) and all(e in (-1, s) for s, e in zip(shape, expected, strict=True))
    tensor = Tensor("x", np.zeros(shape, np.uint8))
    if fits:
        signature.arrays([tensor])
    else:
        with pytest.raises(SignatureError):
            signature.arrays([tensor])


@given(st.sampled_from(list(DTYPES)), st.sampled_from(list(DTYPES)))
def test_datatypes_are_never_converted(declared: str, sent: str) -> None:
    """Only the very datatype fits: no widening, no guessing."""
    signature = Signature.of([TensorMetadata("x", declared, (1,))], [])
    tensor = Tensor("x", np.zeros(1, DTYPES[sent]))
    if declared == sent:
        signature.arrays([tensor])
    else:
        with pytest.raises(SignatureError, match=f"is {declared}, not {sent}"):
            signature.arrays([tensor])


def test_outputs() -> None:
    """Without a choice all outputs; with one, those in that order; an unknown one is named."""
    assert SIGNATURE.output_names([]) == ["y", "z"]
    assert SIGNATURE.output_names([RequestedOutput("z"), RequestedOutput("y")]) == ["z", "y"]
    with pytest.raises(SignatureError, match=r"outputs\[1\]\.name: the model has no output 'q'; it has 'y', 'z'"):
        SIGNATURE.output_names([RequestedOutput("y"), RequestedOutput("q")])


def test_results() -> None:
    """A model that answers with another datatype than it declares has failed."""
    SIGNATURE.check_results(["y"], [np.zeros(1, np.float32)])
    with pytest.raises(InferenceFailed, match="'y' is float64, not FP32"):
        SIGNATURE.check_results(["y"], [np.zeros(1)])
