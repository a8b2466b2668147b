import numpy as np
import pytest

from oip.errors import BY_STATUS, Conflict, InvalidRequest
from oip.messages import DTYPES, InferRequest, InferResponse, Tensor

X = Tensor("x", np.zeros((2, 3), "<f4"))


def test_input_by_name() -> None:
    """An input that is missing is the client's mistake, and named."""
    assert InferRequest((X,)).input("x") is X
    with pytest.raises(InvalidRequest, match="'y' is missing"):
        InferRequest((X,)).input("y")


def test_output_by_name() -> None:
    """An output that is missing is the caller's mistake."""
    other = Tensor("y", X.array)
    assert InferResponse("m", (other, X)).output("x") is X
    with pytest.raises(KeyError):
        InferResponse("m", (X,)).output("y")


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_datatypes_of_arrays(datatype: str) -> None:
    """The table reads the same in both directions."""
    assert Tensor("x", np.zeros((2, 0), DTYPES[datatype])).datatype == datatype


def test_error_classes_by_status() -> None:
    """A status names its class, for carrying an upstream error on."""
    assert BY_STATUS[409] is Conflict
