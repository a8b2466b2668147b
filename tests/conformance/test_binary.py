"""Binary tensors: Triton's `extension_binary_data.md` (TB), clause by clause."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.conftest import Target

    Encode = Callable[[str, list[Any]], bytes]

pytestmark = pytest.mark.profile("binary")

ELEMENTS: dict[str, list[Any]] = {
    "BOOL": [True, False],
    **{f"UINT{bits}": [1, 2**bits - 2] for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": [-(2 ** (bits - 1)), 1] for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": [math.inf, math.nan] for bits in (16, 32, 64)},
    "BYTES": [b"", "ß\0".encode()],
}
"""None of them is the same in the other byte order; those of FP cannot be said in JSON."""

X = [1.5, -2.5]


@pytest.fixture
def raw(encode: Encode) -> bytes:
    """Two FP32 elements."""
    return encode("FP32", X)


def _request(target: Target, raw: bytes, **members: object) -> dict[str, Any]:
    return {"inputs": target.inputs(target.binary("FP32", raw)), **members}


def test_announced(target: Target) -> None:
    """TB, first paragraph: the server metadata's `extensions` hold "binary_tensor_data"."""
    assert "binary_tensor_data" in target.call("/v2").members["extensions"]


def test_json_by_default(target: Target, raw: bytes) -> None:
    """TB "binary_data_output": not given, the outputs are JSON, even where inputs are binary."""
    answer = target.infer(_request(target, raw), raw)
    assert answer.outputs[target.names("FP32")[1]]["data"] == X
    assert answer.json_size is None


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        (True, None, True),
        (True, True, True),
        (True, False, False),
        (False, None, False),
        (False, True, True),
        (False, False, False),
    ],
)
def test_which_outputs_are_binary(target: Target, default: bool | None, own: bool | None, binary: bool) -> None:  # noqa: FBT001 - the clause's three truth values
    """TB "binary_data_output" and "binary_data": the output's own parameter overrides the request's."""
    name = target.names("FP32")[1]
    asked = {"name": name} | ({} if own is None else {"parameters": {"binary_data": own}})
    request = {"inputs": target.inputs(target.entry("FP32", X)), "outputs": [asked]}
    if default is not None:
        request["parameters"] = {"binary_data_output": default}
    output = target.infer(request).outputs[name]
    assert ("raw" in output, "data" in output) == (binary, not binary)


def test_all_outputs_binary(target: Target) -> None:
    """TB "binary_data_output": true asks for all outputs, listed or not."""
    request = {"inputs": target.inputs(), "parameters": {"binary_data_output": True}}
    outputs = target.infer(request).outputs
    assert all("raw" in output and "data" not in output for output in outputs.values())


def test_each_datatype(target: Target, datatype: str, encode: Encode) -> None:
    """TB, second paragraph: little-endian, row-major, no padding; BOOL one byte; BYTES length and bytes."""
    raw = encode(datatype, ELEMENTS[datatype])
    request = {"inputs": target.inputs(target.binary(datatype, raw)), "parameters": {"binary_data_output": True}}
    output = target.infer(request, raw).outputs[target.names(datatype)[1]]
    assert output["raw"] == raw
    assert output["parameters"]["binary_data_size"] == len(raw)


def test_bytes_that_are_no_text(target: Target, encode: Encode) -> None:
    """TB "BYTES": an element is any bytes; a model of text (ONNX: UTF-8) may refuse it, not change it."""
    raw = encode("BYTES", [b"\xff\xfe", b"\x00"])
    request = {"inputs": target.inputs(target.binary("BYTES", raw)), "parameters": {"binary_data_output": True}}
    answer = target.infer(request, raw)
    if answer.status == 200:
        assert answer.outputs[target.names("BYTES")[1]]["raw"] == raw
    else:
        answer.refuses()


def test_each_datatype_to_json(target: Target, datatype: str, encode: Encode) -> None:
    """TB: the encodings of input and output are independent."""
    elements = {"BOOL": [True, False], "BYTES": [b"a", b"bc"]}.get(datatype, [1, 2])
    raw = encode(datatype, elements)
    output = target.infer({"inputs": target.inputs(target.binary(datatype, raw))}, raw).outputs
    told = output[target.names(datatype)[1]]["data"]
    assert told == [one.decode() if isinstance(one, bytes) else one for one in elements]


def test_tensors_in_order(target: Target, encode: Encode) -> None:
    """TB "delivered in the HTTP body": the bytes stand in the order of the tensors in the JSON, both ways."""
    parts = {
        name: encode(name, {"BOOL": [1, 0], "BYTES": [b"a", b"bc"]}.get(name, [1, 2])) for name in target.datatypes
    }
    inputs = [target.binary(name, raw) for name, raw in parts.items()]
    for order in (inputs, inputs[::-1]):
        raw = b"".join(parts[one["datatype"]] for one in order)
        asked = [{"name": target.names(one["datatype"])[1]} for one in order]
        request = {"inputs": order, "outputs": asked, "parameters": {"binary_data_output": True}}
        outputs = target.infer(request, raw).outputs
        assert {output["datatype"]: output["raw"] for output in outputs.values()} == parts


def test_mixed_outputs(target: Target) -> None:
    """TB "one or more tensors": binary and JSON outputs may stand side by side."""
    names = [target.names(datatype)[1] for datatype in target.datatypes[:3]]
    asked = [{"name": name, "parameters": {"binary_data": at == 1}} for at, name in enumerate(names)]
    outputs = target.infer({"inputs": target.inputs(), "outputs": asked}).outputs
    assert ["raw" in outputs[name] for name in names] == [False, True, False]


def test_lengths_in_the_answer(target: Target) -> None:
    """TB, last paragraph: Inference-Header-Content-Length is the JSON's length, Content-Length the whole body's."""
    answer = target.infer({"inputs": target.inputs(), "parameters": {"binary_data_output": True}})
    assert answer.json_size is not None
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert isinstance(json.loads(answer.body[: answer.json_size]), dict)


def test_content_type_of_the_answer(target: Target) -> None:
    """TB "Examples": binary answers are application/octet-stream."""
    answer = target.infer({"inputs": target.inputs(), "parameters": {"binary_data_output": True}})
    assert answer.headers["content-type"] == "application/octet-stream"


def test_empty_batch(target: Target) -> None:
    """TB "binary_data_size": a tensor without elements has no bytes, and is a tensor."""
    inputs = [target.binary(datatype, b"", batch=0) for datatype in target.datatypes]
    outputs = target.infer({"inputs": inputs, "parameters": {"binary_data_output": True}}, b"").outputs
    assert all((output["shape"][0], output["raw"]) == (0, b"") for output in outputs.values())


def test_json_with_its_length(target: Target) -> None:
    """TB: the length header may stand where all tensors are JSON: then it is the body's."""
    output = target.infer({"inputs": target.inputs(target.entry("FP32", X))}, b"").outputs[target.names("FP32")[1]]
    assert output["data"] == X


def test_content_type_means_nothing(target: Target, raw: bytes) -> None:
    """TB: the length header says what the body is; clients send application/json, octets, or nothing (tritonclient)."""
    text = json.dumps(_request(target, raw)).encode()
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "application/octet-stream"}):
        sized = headers | {"Inference-Header-Content-Length": str(len(text))}
        answer = target.call(f"{target.path}/infer", text + raw, sized)
        assert answer.outputs[target.names("FP32")[1]]["data"] == X


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/octet-stream"}])
def test_json_with_any_content_type(target: Target, headers: dict[str, str]) -> None:
    """The same without binary tensors: tritonclient sends JSON without a Content-Type."""
    assert target.call(f"{target.path}/infer", json.dumps({"inputs": target.inputs()}).encode(), headers).status == 200


@pytest.mark.parametrize("size", ["-1", "0", "x", "", "1.0", "1e1", "99999999", "9" * 30])
def test_wrong_header(target: Target, raw: bytes, size: str) -> None:
    """TB "must be provided to give the length of the JSON object": a length that cannot be it is refused."""
    target.infer(_request(target, raw), raw, {"Inference-Header-Content-Length": size}).refuses()


@pytest.mark.parametrize("difference", [-1, 1, 4])
def test_header_beside_the_end_of_the_json(target: Target, raw: bytes, difference: int) -> None:
    """The same for one that ends within the JSON text or within the tensors."""
    text = json.dumps(_request(target, raw)).encode()
    target.infer(text, raw, {"Inference-Header-Content-Length": str(len(text) + difference)}).refuses()


def test_no_header(target: Target, raw: bytes) -> None:
    """TB "the header must be provided": without it there are no binary tensors."""
    text = json.dumps(_request(target, raw)).encode()
    target.call(f"{target.path}/infer", text + raw, {"Content-Type": "application/octet-stream"}).refuses()


@pytest.mark.parametrize("size", [-8, 0, 4, 7, 9, 12, 2**40, 2**70, "8", 8.5, None, True])
def test_wrong_size(target: Target, raw: bytes, size: object) -> None:
    """TB "binary_data_size": an int64, the bytes that shape and datatype take, and not more than there are."""
    entry = target.binary("FP32", raw) | {"parameters": {"binary_data_size": size}}
    target.infer({"inputs": target.inputs(entry)}, raw).refuses()


def test_bytes_left_over(target: Target, raw: bytes) -> None:
    """TB: behind the last tensor the body ends."""
    target.infer(_request(target, raw), raw + b"\0").refuses()


def test_bytes_missing(target: Target, raw: bytes) -> None:
    """TB: the body holds all the bytes announced."""
    target.infer(_request(target, raw), raw[:-1]).refuses()


def test_data_twice(target: Target, raw: bytes) -> None:
    """TB "binary_data_size" says that the tensor is binary: it cannot be JSON as well."""
    entry = target.binary("FP32", raw) | {"data": X}
    target.infer({"inputs": target.inputs(entry)}, raw).refuses()


@pytest.mark.parametrize(
    "tensor",
    [
        b"\x01\0\0\0a",
        b"\x01\0\0\0a\x05\0\0\0b",
        b"\xff\xff\xff\xffab",
        b"\x01\0\0\0a\x01\0\0\0b\0",
        b"\x01\0\0\0a\x01\0",
        b"\x01\0\0\0a\x01\0\0\0b\x01\0\0\0c",
    ],
    ids=["one element short", "beyond the end", "4 GiB", "a byte left", "half a length", "one element more"],
)
def test_wrong_bytes_elements(target: Target, tensor: bytes) -> None:
    """TB "BYTES": lengths and elements fill the tensor exactly, as often as the shape says."""
    target.infer({"inputs": target.inputs(target.binary("BYTES", tensor))}, tensor).refuses()


def test_huge_shapes_without_bytes(target: Target) -> None:
    """Nothing is allocated on the word of a shape."""
    entry = target.binary("FP32", b"") | {"shape": [2**40, 2]}
    target.infer({"inputs": target.inputs(entry)}, b"").refuses()


def test_it_serves_on(target: Target, raw: bytes) -> None:
    """After all of them the server still answers."""
    assert target.infer(_request(target, raw), raw).status == 200
