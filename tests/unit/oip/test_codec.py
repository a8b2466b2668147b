"""Truth vectors carry the clause they come from: OIP is `required_api.md`, TBD is `extension_binary_data.md`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from oip.codec import (
    EncodedBody,
    decode_request,
    decode_response,
    encode_request,
    encode_request_parts,
    encode_response,
)
from oip.errors import BadUpstream, InternalError, InvalidRequest
from oip.messages import DTYPES, InferRequest, InferResponse, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _body(members: object, raw: bytes = b"") -> tuple[bytes, int | None]:
    text = json.dumps(members).encode()
    return text + raw, len(text) if raw else None


def _one(datatype: str, shape: list[int], data: object, **members: object) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data, **members}
    return json.dumps({"inputs": [tensor]}).encode()


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return [(t.name, t.datatype, t.shape) for t in left] == [(t.name, t.datatype, t.shape) for t in right] and all(
        np.array_equal(a.array, b.array) for a, b in zip(left, right, strict=True)
    )


def test_json_example_of_the_protocol() -> None:
    """OIP "Inference Request Examples": two inputs, nested and flat data, one named output, an id."""
    body, _ = _body(
        {
            "id": "42",
            "inputs": [
                {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [[1, 2], [3, 4]]},
                {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
            ],
            "outputs": [{"name": "output0"}],
        }
    )
    request = decode_request(body)
    assert request.id == "42"
    assert request.input("input0").array.tolist() == [[1, 2], [3, 4]]
    assert request.input("input0").array.dtype == np.uint32
    assert request.input("input1").array.tolist() == [True, False, True]
    assert request.outputs == (RequestedOutput("output0"),)
    assert request.binary_output is False


def test_binary_example_of_the_extension() -> None:
    """TBD "Inference Request": raw tensors lie behind the JSON text in order; JSON tensors may stand between them."""
    ones = np.array([[1, 2], [3, 4]], "<u2")
    body, size = _body(
        {
            "inputs": [
                {"name": "a", "shape": [2, 2], "datatype": "UINT16", "parameters": {"binary_data_size": 8}},
                {"name": "b", "shape": [1], "datatype": "INT8", "data": [-5]},
                {"name": "c", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3, "k": "v"}},
            ],
            "outputs": [{"name": "o", "parameters": {"binary_data": True, "n": 1}}],
        },
        ones.tobytes() + b"\x01\x00\x01",
    )
    request = decode_request(body, size)
    assert [t.array.tolist() for t in request.inputs] == [[[1, 2], [3, 4]], [-5], [True, False, True]]
    assert request.inputs[2].parameters == {"k": "v"}
    assert request.outputs == (RequestedOutput("o", True, {"n": 1}),)


def test_bytes_elements_are_length_prefixed() -> None:
    """TBD "Tensor data" of BYTES: a four-byte little-endian length before each element."""
    raw = b"\x03\x00\x00\x00abc\x00\x00\x00\x00\x01\x00\x00\x00\xff"
    tensor = {"name": "s", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    request = decode_request(*_body({"inputs": [tensor]}, raw))
    assert request.inputs[0].array.tolist() == [b"abc", b"", b"\xff"]
    assert encode_request(InferRequest(request.inputs)).body.endswith(raw)


def test_binary_input_is_a_read_only_view() -> None:
    """No copy is made of an aligned tensor, and nobody can write into the request's body."""
    encoded = encode_request(InferRequest((Tensor("x", np.arange(4, dtype="<f4")),)))
    array = decode_request(encoded.body, encoded.json_size).inputs[0].array
    assert np.shares_memory(array, np.frombuffer(encoded.body, np.uint8))
    assert not array.flags.writeable


def test_unaligned_input_is_copied() -> None:
    """A foreign client's JSON text may end anywhere; the array is addressable all the same."""
    values = np.array([1.5, -2.5], "<f8")
    tensor = {"name": "x", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    text = json.dumps({"inputs": [tensor]}).encode()
    for pad in range(8):
        padded = text + b" " * pad
        array = decode_request(padded + values.tobytes(), len(padded)).inputs[0].array
        assert array.flags.aligned
        assert array.tolist() == values.tolist()


@pytest.mark.parametrize("binary", [True, False])
@given(data=st.data())
@QUICK
def test_request_round_trip(
    tensors: st.SearchStrategy[tuple[Tensor, ...]], data: st.DataObject, *, binary: bool
) -> None:
    """Every datatype, shape and encoding survives the way there; so do id, parameters and requested outputs."""
    request = InferRequest(
        data.draw(tensors),
        data.draw(st.none() | st.text()),
        {
            "p": data.draw(
                st.booleans()
                | st.integers(-(2**63), 2**64 - 1)
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text()
            )
        }
        if data.draw(st.booleans())
        else {},
        (RequestedOutput("y", data.draw(st.none() | st.booleans()), {"q": 1}), RequestedOutput("z")),
        data.draw(st.booleans()),
    )
    encoded = encode_request(request, binary=binary)
    back = decode_request(encoded.body, encoded.json_size)
    assert _same(back.inputs, request.inputs)
    assert (back.id, back.parameters, back.outputs, back.binary_output) == (
        request.id,
        request.parameters,
        request.outputs,
        request.binary_output,
    )


@given(data=st.data())
@QUICK
def test_response_round_trip(tensors: st.SearchStrategy[tuple[Tensor, ...]], data: st.DataObject) -> None:
    """Whatever mixture of encodings a request asks for, the response decodes to the same tensors."""
    outputs = data.draw(tensors)
    asked = tuple(RequestedOutput(t.name, data.draw(st.none() | st.booleans())) for t in outputs)
    request = InferRequest((), outputs=asked, binary_output=data.draw(st.booleans()))
    response = InferResponse("m", outputs, data.draw(st.none() | st.just("7")), "id", {"arm": "a"})
    encoded = encode_response(response, request)
    back = decode_response(encoded.body, encoded.json_size)
    assert _same(back.outputs, outputs)
    assert (back.model_name, back.model_version, back.id, back.parameters) == (
        "m",
        response.model_version,
        "id",
        {"arm": "a"},
    )


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_own_encoding_wins(own: bool | None, *, default: bool, binary: bool) -> None:  # noqa: FBT001 - three-valued
    """TBD "Inference Request": an output's binary_data overrides binary_data_output, which else decides."""
    request = InferRequest((), outputs=(RequestedOutput("y", own),), binary_output=default)
    encoded = encode_response(InferResponse("m", (Tensor("y", np.zeros(2, "<f4")),)), request)
    assert (encoded.json_size is not None) is binary
    entry = json.loads(encoded.body[: encoded.json_size])["outputs"][0]
    assert ("data" in entry) is not binary
    assert entry.get("parameters", {}) == ({"binary_data_size": 8} if binary else {})


@pytest.mark.parametrize("padding", [0, 4000])
@pytest.mark.parametrize(
    ("datatype", "data", "value"),
    [
        ("INT64", [9007199254740993, -(2**63)], [9007199254740993, -(2**63)]),
        ("UINT64", [2**64 - 1, 2**53 + 1], [2**64 - 1, 2**53 + 1]),
        ("FP64", [1e20, 10**25], [1e20, 1e25]),
        ("FP16", [65504, 0.5], [65504, 0.5]),
        ("BYTES", ["ß", ""], ["ß".encode(), b""]),
        ("BOOL", [True, False], [True, False]),
    ],
)
def test_exact_values(datatype: str, data: list[Any], value: list[Any], padding: int) -> None:
    """Whole numbers beyond 2^53 stay exact and those beyond 64 bits are floats, with either JSON parser."""
    array = decode_request(_one(datatype, [2], data) + b" " * padding).inputs[0].array
    assert array.tolist() == value
    assert array.dtype == DTYPES[datatype]


@pytest.mark.parametrize("padding", [0, 4000])
@pytest.mark.parametrize("data", [[[[1, 2, 3]], [[4, 5, 6]]], [1, 2, 3, 4, 5, 6]])
def test_nested_or_flat(data: list[Any], padding: int) -> None:
    """OIP "Tensor Data": the natural shape or one axis, both row-major."""
    array = decode_request(_one("INT16", [2, 1, 3], data) + b" " * padding).inputs[0].array
    assert array.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize("padding", [0, 4000])
@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("UINT8", [1], [300]),
        ("UINT8", [1], [-1]),
        ("INT8", [1], [-129]),
        ("INT32", [1], [1.5]),
        ("INT32", [1], [1.0]),
        ("INT32", [1], ["1"]),
        ("INT32", [1], [2**40]),
        ("INT64", [1], [2**63]),
        ("UINT64", [1], [2**64]),
        ("UINT64", [1], [-1]),
        ("FP32", [1], [True]),
        ("FP32", [1], [None]),
        ("FP32", [1], ["1"]),
        ("FP32", [1], [{}]),
        ("FP32", [1], [1e39]),
        ("FP16", [1], [65520]),
        ("BOOL", [1], [1]),
        ("BOOL", [1], ["true"]),
        ("BYTES", [1], [1]),
        ("BYTES", [1], [None]),
        ("FP32", [2], [1]),
        ("FP32", [2], [1, 2, 3]),
        ("FP32", [], []),
        ("FP32", [2, 2], [[1, 2, 3], [4]]),
        ("FP32", [2, 2], [[1, 2], 3, 4]),
        ("FP32", [2, 2], [[[1], [2]], [[3], [4]], []]),
        ("BYTES", [2, 1], [["a"], "b"]),
        ("FP32", [1], 1),
        ("FP32", [1], "1"),
        ("FP32", [1], {"0": 1}),
    ],
)
def test_wrong_data_names_the_field(datatype: str, shape: list[int], data: object, padding: int) -> None:
    """An element that the datatype cannot hold, or a wrong count or nesting, is a 400 that names the data."""
    with pytest.raises(InvalidRequest, match=r"^inputs\[0\]\.data: "):
        decode_request(_one(datatype, shape, data) + b" " * padding)


TENSOR = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
RAW = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ([], "body"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": [TENSOR, TENSOR]}, "inputs"),
        ({"inputs": [{**TENSOR, "name": ""}]}, "inputs[0].name"),
        ({"inputs": [{**TENSOR, "name": 1}]}, "inputs[0].name"),
        ({"inputs": [{k: v for k, v in TENSOR.items() if k != "name"}]}, "inputs[0].name"),
        ({"inputs": [{**TENSOR, "datatype": "FLOAT"}]}, "inputs[0].datatype"),
        ({"inputs": [{k: v for k, v in TENSOR.items() if k != "datatype"}]}, "inputs[0].datatype"),
        ({"inputs": [{k: v for k, v in TENSOR.items() if k != "shape"}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [-1]}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [1.0]}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [True]}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [2**40, 2**40]}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [0, 2**40, 2**40]}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [1] * 33}]}, "inputs[0].shape"),
        ({"inputs": [{k: v for k, v in TENSOR.items() if k != "data"}]}, "inputs[0].data"),
        ({"inputs": [{**RAW, "data": [1]}]}, "inputs[0].data"),
        ({"inputs": [RAW]}, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [{**RAW, "parameters": {"binary_data_size": -1}}]}, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [{**RAW, "parameters": {"binary_data_size": "4"}}]}, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [{**TENSOR, "parameters": {"p": [1]}}]}, "inputs[0].parameters.p"),
        ({"inputs": [{**TENSOR, "parameters": []}]}, "inputs[0].parameters"),
        ({"inputs": [TENSOR], "parameters": {"p": None}}, "parameters.p"),
        ({"inputs": [TENSOR], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"inputs": [TENSOR], "id": 1}, "id"),
        ({"inputs": [TENSOR], "outputs": {}}, "outputs"),
        ({"inputs": [TENSOR], "outputs": ["y"]}, "outputs[0]"),
        ({"inputs": [TENSOR], "outputs": [{}]}, "outputs[0].name"),
        ({"inputs": [TENSOR], "outputs": [{"name": "y"}, {"name": "y"}]}, "outputs"),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "outputs[0].parameters.binary_data",
        ),
    ],
)
def test_wrong_envelope_names_the_field(members: object, field: str) -> None:
    """Every wrong member of the envelope is a 400 whose message begins with its path, with either JSON parser."""
    for padding in (b"", b" " * 4000):
        with pytest.raises(InvalidRequest) as caught:
            decode_request(_body(members)[0] + padding)
        assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("padding", [b"", b" " * 4000])
@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff", b"NaN", b'{"inputs":[NaN]}', b"1", b'"x"', b"[" * 5000, b'{"inputs":' * 2000, b'{"a":1e400}'],
)
def test_what_is_no_json_object_is_a_client_error(text: bytes, padding: bytes) -> None:
    """Broken, too deep, or another JSON value: 400, from either parser."""
    with pytest.raises(InvalidRequest, match=r"^body: "):
        decode_request(text + padding)


def test_null_stands_for_an_absent_member() -> None:
    """The SDK's clients write null for what they leave out; it is read as left out."""
    members = {"inputs": [{**TENSOR, "parameters": None}], "id": None, "parameters": None, "outputs": None}
    request = decode_request(_body(members)[0])
    assert (request.id, request.parameters, request.outputs) == (None, {}, ())


@pytest.mark.parametrize("members", [b'"id":"1","id":"2"', b'"id":"2","id\\u0000":"1"', b'"i\\u0000":[1],"id":"2"'])
def test_odd_members_mean_the_same_at_any_size(members: bytes) -> None:
    """Of members that occur twice the last counts, and a zero byte in a name ends nothing, with either parser."""
    text = b'{"inputs":[%s],%s}' % (json.dumps(TENSOR).encode(), members)
    assert decode_request(text).id == "2"
    assert decode_request(text + b" " * 4000).id == "2"


def test_many_members() -> None:
    """Hundreds of unknown members are ignored like one, without a search for each."""
    many = json.dumps({"inputs": [{**TENSOR, **{f"k{i}": i for i in range(500)}}]}).encode()
    assert decode_request(many).inputs[0].array.tolist() == [1]


def test_large_documents_read_other_members_too() -> None:
    """Parameters, outputs and non-numeric data of a document in the fast parser are plain values."""
    members = {
        "inputs": [{"name": "s", "datatype": "BYTES", "shape": [2, 500], "data": [["a"] * 500, ["b"] * 500]}],
        "parameters": {"p": "v"},
        "outputs": [{"name": "s"}],
    }
    request = decode_request(_body(members)[0])
    assert request.inputs[0].array[1, 499] == b"b"
    assert request.parameters == {"p": "v"}
    assert request.outputs == (RequestedOutput("s"),)


@pytest.mark.parametrize(
    ("size", "raw", "json_size"),
    [(8, b"1234", 0), (4, b"12345", 0), (4, b"1234", 1), (5, b"12345", 0), (3, b"123", 0)],
)
def test_bytes_must_fit(size: int, raw: bytes, json_size: int) -> None:
    """Too few bytes, bytes left over, a JSON length beyond the text, and sizes that contradict the shape are 400."""
    text = json.dumps({"inputs": [{**RAW, "parameters": {"binary_data_size": size}}]}).encode()
    with pytest.raises(InvalidRequest):
        decode_request(text + raw, len(text) + json_size)


@pytest.mark.parametrize("json_size", [-1, 0, 10_000])
def test_json_size_within_the_body(json_size: int) -> None:
    """The header's length lies from 1 to the body's."""
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        decode_request(_body({"inputs": [TENSOR]})[0], json_size)


@pytest.mark.parametrize(
    ("raw", "shape", "reason"),
    [
        (b"\x05\x00\x00\x00abc", [1], "element 0 reaches beyond"),
        (b"\x01\x00\x00\x00a\x01\x00\x00\x00", [2], "element 1 reaches beyond"),
        (b"\xff\xff\xff\xff", [1], "element 0 reaches beyond"),
        (b"\x02\x00\x00\x00ab\x00\x00", [2], "element 1 reaches beyond"),
        (b"\x00\x00", [1], "cannot hold 1"),
        (b"", [2**50], "cannot hold"),
        (b"\x00\x00\x00\x00z", [1], "1 bytes are left"),
    ],
)
def test_broken_bytes_elements(raw: bytes, shape: list[int], reason: str) -> None:
    """Lengths that lie, missing elements and leftovers of a BYTES tensor are 400, before memory is taken for them."""
    tensor = {"name": "s", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(InvalidRequest, match=rf"^inputs\[0\]\.parameters\.binary_data_size: .*{reason}"):
        decode_request(text + raw, len(text))


def test_bool_bytes_are_zero_or_one() -> None:
    """A byte of 2 is no BOOL; what numpy makes of it is undefined."""
    tensor = {"name": "b", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}}
    with pytest.raises(InvalidRequest, match="BOOL"):
        decode_request(*_body({"inputs": [tensor]}, b"\x02"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_json_refuses_what_is_not_finite(value: float) -> None:
    """RFC 8259 section 6: such numbers cannot be said in JSON; binary passes them."""
    response = InferResponse("m", (Tensor("y", np.array([value], "<f2")),))
    with pytest.raises(InternalError, match="output 'y' is not finite"):
        encode_response(response, InferRequest(()))
    encoded = encode_response(response, InferRequest((), binary_output=True))
    assert np.array_equal(decode_response(encoded.body, encoded.json_size).outputs[0].array, [value], equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_must_be_finite(value: float) -> None:
    """A parameter that JSON cannot say never leaves as null, on no level and in no direction."""
    x = np.zeros(1, "<f4")
    with pytest.raises(InternalError, match="parameter 'p'"):
        encode_response(InferResponse("m", (), parameters={"p": value}), InferRequest(()))
    for request in (
        InferRequest((), parameters={"p": value}),
        InferRequest((Tensor("x", x, {"p": value}),)),
        InferRequest((), outputs=(RequestedOutput("y", None, {"p": value}),)),
    ):
        with pytest.raises(InternalError, match="parameter 'p'"):
            encode_request(request)


def test_json_refuses_bytes_that_are_no_text() -> None:
    """The client is told to ask for binary."""
    array = np.array([b"\xff"], object)
    with pytest.raises(InvalidRequest, match="ask for it as binary"):
        encode_response(InferResponse("m", (Tensor("y", array),)), InferRequest(()))


def test_texts_are_taken_for_bytes() -> None:
    """Model runtimes answer with str; it is written as UTF-8 in both encodings."""
    response = InferResponse("m", (Tensor("y", np.array(["ß"], object)),))
    for binary in (True, False):
        encoded = encode_response(response, InferRequest((), binary_output=binary))
        assert decode_response(encoded.body, encoded.json_size).outputs[0].array.tolist() == ["ß".encode()]


def test_foreign_dtype_is_an_internal_error() -> None:
    """A dtype that the protocol lacks never becomes another one silently."""
    with pytest.raises(InternalError, match="complex64"):
        encode_request(InferRequest((Tensor("x", np.zeros(1, np.complex64)),)))


def test_strided_arrays() -> None:
    """Neither encoding presumes contiguous memory."""
    array = np.arange(12, dtype="<i4").reshape(3, 4).T[::2]
    request = InferRequest((Tensor("x", array, {"k": 1}),))
    for binary in (True, False):
        encoded = encode_request(request, binary=binary)
        back = decode_request(encoded.body, encoded.json_size).inputs[0]
        assert back.array.tolist() == array.tolist()
        assert back.parameters == {"k": 1}


@pytest.mark.parametrize("members", [{}, {"model_name": 1}, {"model_name": "m", "outputs": [{}]}, []])
def test_nonsense_from_upstream(members: object) -> None:
    """A wrong answer of another server is its fault, not our client's: 502."""
    with pytest.raises(BadUpstream, match="upstream"):
        decode_response(_body(members)[0])


@given(data=st.data())
@settings(QUICK, max_examples=300)
def test_mutated_bodies(data: st.DataObject, mutate: Callable[[st.DataObject, EncodedBody], EncodedBody]) -> None:
    """No mutation of a valid body, and no header length, gets anything but a request or a client error out."""
    request = InferRequest(
        (
            Tensor("x", np.arange(6, dtype="<f4").reshape(2, 3)),
            Tensor("s", np.array([b"ab", b"c"], object)),
            Tensor("b", np.array([True, False])),
        ),
        "id",
        {"p": 1.5},
        (RequestedOutput("y", True),),
        True,
    )
    encoded = mutate(data, encode_request(request, binary=data.draw(st.booleans())))
    with suppress(InvalidRequest):
        decode_request(encoded.body, encoded.json_size)
    with suppress(BadUpstream):
        decode_response(encoded.body, encoded.json_size)


@pytest.fixture(scope="session")
def mutate() -> Callable[[st.DataObject, EncodedBody], EncodedBody]:
    """Overwrites, removes and inserts bytes; may grow the text past the small parser; may shift the length."""

    def mutated(data: st.DataObject, encoded: EncodedBody) -> EncodedBody:
        body = bytearray(encoded.body)
        for _ in range(data.draw(st.integers(0, 3))):
            start = data.draw(st.integers(0, len(body)))
            stop = min(len(body), start + data.draw(st.integers(0, 4)))
            token = st.sampled_from([b"-1", b"1e999", b"null", b"[", b"]", b"{}", b'"', b"99999999999999999999", b"x"])
            body[start:stop] = data.draw(token | st.binary(max_size=4))
        size = encoded.json_size
        if size is None:
            return EncodedBody(bytes(body) + b" " * data.draw(st.sampled_from([0, 4000])))
        return EncodedBody(bytes(body), data.draw(st.just(size) | st.integers(-2, len(body) + 2) | st.none()))

    return mutated


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [(name, binary) for name in DTYPES for binary in (True, False) if binary or name != "FP16"],  # which it cannot
)
def test_reads_what_tritonclient_writes(datatype: str, *, binary: bool) -> None:
    """A foreign encoder: NVIDIA's client, both encodings, every datatype that it has."""
    array = np.array([[b"a", b"bc"]], object) if datatype == "BYTES" else np.array([[0, 1]]).astype(DTYPES[datatype])
    tensor = InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    outputs = [InferRequestedOutput("y", binary_data=binary)]
    body, size = InferenceServerClient.generate_request_body([tensor], outputs=outputs, request_id="7")
    request = decode_request(body, size)
    assert request.id == "7"
    assert request.outputs[0].binary is binary
    assert _same(request.inputs, (Tensor("x", array),))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", list(DTYPES))
def test_tritonclient_reads_what_is_written(datatype: str, *, binary: bool) -> None:
    """A foreign decoder: NVIDIA's client, both encodings, every datatype."""
    array = np.array([[b"a", b"bc"]], object) if datatype == "BYTES" else np.array([[0, 1]]).astype(DTYPES[datatype])
    response = InferResponse("m", (Tensor("x", array), Tensor("y", np.arange(3, dtype="<f4"))), "3", "7")
    encoded = encode_response(response, InferRequest((), binary_output=binary))
    result = InferenceServerClient.parse_response_body(encoded.body, header_length=encoded.json_size)
    assert result.get_response()["model_version"] == "3"
    read = result.as_numpy("x")
    expected = [[b"a", b"bc"]] if binary or datatype != "BYTES" else [["a", "bc"]]
    assert read.tolist() == (expected if datatype == "BYTES" else array.tolist())
    assert result.as_numpy("y").tolist() == [0, 1, 2]


def test_an_equal_json_part_is_read_once() -> None:
    """Responses that differ in their elements alone are told apart; what one reader does, the next one never sees."""
    request = InferRequest((Tensor("x", np.zeros(1)),), binary_output=True)
    for value in (1.0, 2.0, 3.0):
        outputs = (Tensor("y", np.full(2, value, np.float32)), Tensor("s", np.array([b"a"], object)))
        response = InferResponse("m", outputs, "7", parameters={"model_digest": "sha256:1"})
        encoded = encode_response(response, request)
        decoded = decode_response(encoded.body, encoded.json_size)
        assert _same(decoded.outputs, outputs)
        assert (decoded.model_name, decoded.model_version, decoded.id) == ("m", "7", None)
        assert decoded.parameters == {"model_digest": "sha256:1"}
        with suppress(TypeError):
            decoded.parameters["model_digest"] = "forged"  # type: ignore[index]  # that is what is tried
        for broken in (encoded.body[:-1], encoded.body + b"x"):
            with pytest.raises(BadUpstream, match="bytes"):
                decode_response(broken, encoded.json_size)


@pytest.mark.parametrize("binary", [False, True])
def test_parts_are_the_body(*, binary: bool) -> None:
    """Sent one after the other the parts are the body, and the elements are sent from where they lie."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = InferRequest((Tensor("x", array), Tensor("y", array[:, ::2])), "id", {"p": 1})
    encoded = encode_request_parts(request, binary=binary)
    assert encoded.joined() == encode_request(request, binary=binary)
    if binary:
        assert np.shares_memory(np.frombuffer(encoded.parts[1], np.float32), array)


def test_members_cost_linear_time() -> None:
    """The fast parser searches members one by one; an object full of them must not make that quadratic."""
    many = json.dumps({"inputs": [TENSOR], **{f"k{i}": i for i in range(50_000)}}).encode()
    started_s = time.process_time()
    decode_request(many)
    assert time.process_time() - started_s < 1
