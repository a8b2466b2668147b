"""Inference that must fail: `inference_rest.md` (IR) "Inference Response JSON Error Object".

A failed request has "an HTTP error status (typically 400)" and the object `{"error": string}`. Where the fault is the
client's, RFC 9110 section 15.5 makes that 4xx. What a server may coerce ("Tensor Data") is not among these cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.conftest import Target

pytestmark = pytest.mark.profile("core")

ENVELOPES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "an array": b"[]",
    "a string": b'"inputs"',
    "null": b"null",
    "not UTF-8": b'{"inputs": "\xff"}',
    "two documents": b"{}{}",
    "no inputs": b"{}",
    "empty inputs": b'{"inputs": []}',
    "inputs null": b'{"inputs": null}',
    "inputs an object": b'{"inputs": {}}',
    "an input that is a string": b'{"inputs": ["x"]}',
}


@pytest.mark.parametrize("body", ENVELOPES.values(), ids=ENVELOPES)
def test_no_inference_request(target: Target, body: bytes) -> None:
    """IR "Inference Request JSON Object": the body must be one."""
    target.infer(body).refuses()


INPUTS: dict[str, dict[str, Any]] = {
    "no name": {"name": None},
    "a name that is a number": {"name": 1},
    "an unknown name": {"name": "no-such-input"},
    "no shape": {"shape": None},
    "a shape that is a number": {"shape": 2},
    "a negative dimension": {"shape": [-1, 2]},
    "a fractional dimension": {"shape": [1.5, 2]},
    "a dimension that is text": {"shape": ["1", 2]},
    "a dimension that is a boolean": {"shape": [True, 2]},
    "a dimension beyond 64 bits": {"shape": [2**64, 2]},
    "dimensions that overflow together": {"shape": [2**33, 2**33]},
    "fewer elements than the shape": {"data": [1]},
    "more elements than the shape": {"data": [1, 2, 3]},
    "a shape that is not the model's": {"shape": [1, 3], "data": [1, 2, 3]},
    "a rank that is not the model's": {"shape": [2]},
    "no datatype": {"datatype": None},
    "an unknown datatype": {"datatype": "FLOAT"},
    "a datatype in lower case": {"datatype": "fp32"},
    "a datatype that is not the model's": {"datatype": "BOOL", "data": [True, False]},
    "no data": {"data": None},
    "data that is a number": {"data": 1},
    "data that is an object": {"data": {}},
    "elements that are null": {"data": [None, None]},
    "elements that are words": {"data": ["a", "b"]},
    "elements that are objects": {"data": [{}, {}]},
    "ragged data": {"data": [[1], [2, 3]]},
    "data nested too deep": {"data": [[[[1]]], [[[2]]]]},
    "parameters that are an array": {"parameters": []},
    "a parameter that is an object": {"parameters": {"x": {}}},
    "a parameter that is an array": {"parameters": {"x": [1]}},
}


@pytest.mark.parametrize("change", INPUTS.values(), ids=INPUTS)
def test_no_request_input(target: Target, change: dict[str, Any]) -> None:
    """IR "Request Input": every member as it is described, and as the model's metadata says."""
    name = target.names("FP32")[0]
    wrong = {key: value for key, value in (target.entry("FP32", [1, 2]) | change).items() if value is not None}
    inputs = [wrong if one["name"] == name else one for one in target.inputs()]
    target.infer({"inputs": inputs}).refuses()


REQUESTS: dict[str, Callable[[Target], dict[str, Any]]] = {
    "an id that is a number": lambda target: {"id": 42, "inputs": target.inputs()},
    "parameters that are an array": lambda target: {"parameters": [], "inputs": target.inputs()},
    "a parameter that is an object": lambda target: {"parameters": {"x": {}}, "inputs": target.inputs()},
    "outputs that are an object": lambda target: {"inputs": target.inputs(), "outputs": {}},
    "an output without a name": lambda target: {"inputs": target.inputs(), "outputs": [{}]},
    "an output whose name is a number": lambda target: {"inputs": target.inputs(), "outputs": [{"name": 1}]},
    "an unknown output": lambda target: {"inputs": target.inputs(), "outputs": [{"name": "no-such-output"}]},
    "a missing input": lambda target: {"inputs": target.inputs()[1:]},
    "an input twice": lambda target: {"inputs": [*target.inputs(), target.inputs()[0]]},
    "one input too many": lambda target: {"inputs": [*target.inputs(), target.inputs()[0] | {"name": "more"}]},
}


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_no_such_request(target: Target, request_of: Callable[[Target], dict[str, Any]]) -> None:
    """IR "Inference Request JSON Object": every member as it is described, inputs and outputs those of the model."""
    target.infer(request_of(target)).refuses()


def test_unknown_model(target: Target) -> None:
    """IR "Inference Response JSON Error Object": the model of the path must exist."""
    target.call("/v2/models/no-such-model/infer", b"{}", {"Content-Type": "application/json"}).refuses()


def test_inference_by_get(target: Target) -> None:
    """IR's table: inference is a POST; RFC 9110 section 15.5.6: another method is 405."""
    assert target.call(f"{target.path}/infer").status == 405


def test_it_serves_on(target: Target) -> None:
    """After all of them the server still answers."""
    assert target.infer({"inputs": target.inputs()}).status == 200
