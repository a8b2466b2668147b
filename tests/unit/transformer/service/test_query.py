from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oip.errors import InvalidRequest
from oip.messages import InferRequest, RequestedOutput, Tensor
from transformer.errors import BadRequest
from transformer.query import DEFAULT_OUTPUTS, OUTPUTS, PARAMETERS, make_query, parse_query

IQ = np.zeros((1, 2), np.float32)


def _request(*outputs: str, **parameters: Any) -> InferRequest:  # noqa: ANN401 - any parameter
    return InferRequest((Tensor("iq", IQ),), parameters=parameters, outputs=tuple(map(RequestedOutput, outputs)))


def test_defaults() -> None:
    """Unasked: every output but GeoJSON, 95 %, with the cache, no session, the contract's full scale."""
    query = parse_query(_request())
    assert query.iq is IQ
    assert query.outputs == ("position", "covariance", "ellipse", "confidence")
    assert (query.confidence_level, query.cache, query.session_id, query.full_scale_dbm) == (0.95, True, None, None)


def test_everything_given() -> None:
    """Every parameter is read, and outputs keep their order."""
    parameters = {"confidence_level": 0.5, "cache": False, "session_id": "s", "full_scale_dbm": -40}
    query = parse_query(_request("geojson", "position", **parameters))
    assert set(parameters) == set(PARAMETERS)
    assert query.outputs == ("geojson", "position")
    assert (query.confidence_level, query.cache, query.session_id, query.full_scale_dbm) == (0.5, False, "s", -40.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"confidence_level": 0.0}, "parameters.confidence_level: 0 is not between"),
        ({"confidence_level": 1}, "parameters.confidence_level: 1 is not between"),
        ({"confidence_level": float("nan")}, "parameters.confidence_level: nan is not between"),
        ({"confidence_level": "0.5"}, "parameters.confidence_level: must be a number"),
        ({"confidence_level": True}, "parameters.confidence_level: must be a number"),
        ({"confidence_level": 10**400}, "parameters.confidence_level: is too large"),
        ({"full_scale_dbm": 101}, "parameters.full_scale_dbm: 101 dBm is outside"),
        ({"full_scale_dbm": float("nan")}, "parameters.full_scale_dbm: nan dBm is outside"),
        ({"cache": "true"}, "parameters.cache: must be true or false"),
        ({"cache": 0}, "parameters.cache: must be true or false"),
        ({"session_id": 7}, "parameters.session_id: must be a string"),
        ({"session_id": ""}, "parameters.session_id: must be a string"),
        ({"sesion_id": "s"}, "parameters.sesion_id: unknown; known are confidence_level, cache"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], message: str) -> None:
    """A parameter that is wrong or unknown is named with the rule that it breaks."""
    with pytest.raises(BadRequest) as caught:
        parse_query(_request(**parameters))
    assert str(caught.value).startswith(message)


@given(st.floats() | st.integers())
def test_a_level_is_taken_exactly_inside_of_zero_and_one(level: float) -> None:
    """Any number is either a probability inside (0, 1) or refused; nothing else comes out."""
    try:
        assert make_query(IQ, {"confidence_level": level}).confidence_level == level
    except BadRequest:
        assert not 0.0 < level < 1.0


def test_other_tensors() -> None:
    """A missing input, a further one and an unknown output are named."""
    with pytest.raises(InvalidRequest, match="'iq' is missing"):
        parse_query(InferRequest(()))
    with pytest.raises(BadRequest, match="no input 'x'"):
        parse_query(InferRequest((Tensor("iq", IQ), Tensor("x", IQ))))
    with pytest.raises(BadRequest, match="no output 'altitude'; there are position"):
        parse_query(_request("altitude"))
    assert set(OUTPUTS) - set(DEFAULT_OUTPUTS) == {"geojson"}
