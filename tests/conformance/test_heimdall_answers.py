"""What this service promises beyond the protocol: nothing is coerced, and answers say what is wrong, and where."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.conftest import Target

    Encode = Callable[[str, list[Any]], bytes]

pytestmark = pytest.mark.profile("heimdall")

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("datatype", "elements"),
    [
        ("UINT8", [256, 0]),
        ("UINT8", [-1, 0]),
        ("INT8", [-129, 0]),
        ("INT32", [1.5, 0]),
        ("INT32", ["1", "2"]),
        ("INT64", [2**63, 0]),
        ("UINT64", [2**64, 0]),
        ("FP16", [65520, 0]),
        ("FP32", [1e39, 0]),
        ("FP32", ["1", "2"]),
        ("FP32", [True, False]),
        ("BOOL", [0, 1]),
        ("BOOL", ["true", "false"]),
        ("BYTES", [1, 2]),
    ],
)
def test_nothing_is_coerced(target: Target, datatype: str, elements: list[Any]) -> None:
    """`required_api.md` "Tensor Data" lets a server coerce; here an element that does not fit is 400 and named."""
    request = {"inputs": target.inputs(target.entry(datatype, elements))}
    at = target.datatypes.index(datatype)
    assert target.infer(request).refuses(400).startswith(f"inputs[{at}].data: {datatype} takes ")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_only_finite_json(target: Target, word: str) -> None:
    """RFC 8259 section 6: JSON has no NaN and no infinity, and no number may become one."""
    text = json.dumps({"inputs": target.inputs(target.entry("FP64", [0.25, 1]))}).replace("0.25", word)
    target.infer(text.encode()).refuses(400)


@pytest.mark.parametrize("elements", [[float("nan"), 1], [1, float("-inf")]])
def test_never_null_for_not_finite(target: Target, encode: Encode, elements: list[float]) -> None:
    """An output that JSON cannot say is an error that points to binary, not a null with status 200."""
    raw = encode("FP32", elements)
    message = target.infer({"inputs": target.inputs(target.binary("FP32", raw))}, raw).refuses(500)
    assert target.names("FP32")[1] in message
    assert "binary" in message


def test_never_mojibake(target: Target, encode: Encode) -> None:
    """BYTES that are not UTF-8 are not written as JSON, and not changed: they are refused, naming the reason."""
    raw = encode("BYTES", [b"\xff", b""])
    assert "UTF-8" in target.infer({"inputs": target.inputs(target.binary("BYTES", raw))}, raw).refuses(400)


def test_outputs_in_the_order_asked_for(target: Target) -> None:
    """Outputs come in the order of the request's `outputs`."""
    names = [one["name"] for one in target.metadata["outputs"]][::-1]
    answer = target.infer({"inputs": target.inputs(), "outputs": [{"name": name} for name in names]})
    assert [one["name"] for one in answer.members["outputs"]] == names


def test_empty_batches(target: Target) -> None:
    """A dimension of 0 is legal (an unsigned integer), in JSON too."""
    outputs = target.infer({"inputs": target.inputs(batch=0)}).outputs
    assert all((one["shape"][0], one["data"]) == (0, []) for one in outputs.values())


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v2", "POST", {"GET", "HEAD"}),
        ("/v2/health/ready", "DELETE", {"GET", "HEAD"}),
        ("{model}", "PUT", {"GET", "HEAD"}),
        ("{model}/infer", "GET", {"POST"}),
        ("{model}/infer", "OPTIONS", {"POST"}),
    ],
)
def test_wrong_method(target: Target, path: str, method: str, allow: set[str]) -> None:
    """RFC 9110 section 15.5.6: 405 names the methods allowed; with an error object."""
    answer = target.call(path.format(model=target.path), method=method)
    answer.refuses(405)
    assert set(answer.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize("path", ["/v2/nope", "/v2/models", "{model}/nope", "{model}/versions", "/v2/health", "/v2//"])
def test_unknown_path(target: Target, path: str) -> None:
    """404 with an error object for every path in /v2 that is none, and the server's metadata for /v2 with slashes."""
    answer = target.call(path.format(model=target.path))
    if path == "/v2//":
        assert answer.status == 200
    else:
        answer.refuses(404)


@pytest.mark.parametrize("name", ["модель", "a/b", "a b", "%", "..", "\x00", "?", "𝄞", "x" * 5000])
def test_strange_model_names(target: Target, name: str) -> None:
    """Percent-encoded names of any characters are names: 404 with an error object, no path tricks."""
    assert target.call(f"/v2/models/{quote(name, safe='')}").refuses(404)
    target.call(f"/v2/models/{quote(name, safe='')}/infer", b"{}", JSON).refuses(400, 404)


@pytest.mark.parametrize("slash", ["/", "//"])
def test_trailing_slashes(target: Target, slash: str) -> None:
    """`open_inference_rest.yaml` writes /v2/ with a slash, the text without: both work, for every endpoint."""
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", target.path, f"{target.path}/ready"):
        assert target.call(path + slash).status == 200


def test_over_encoded_names(target: Target) -> None:
    """RFC 3986 section 2.3: a name in which every byte is percent-encoded is the same name."""
    name = "".join(f"%{byte:02x}" for byte in target.model_name.encode())
    assert target.call(f"/v2/models/{name}").members["name"] == target.model_name


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "{model}", "{model}/ready", "/v2/openapi.json"])
def test_head(target: Target, path: str) -> None:
    """RFC 9110 section 9.3.2: HEAD is GET without the body, the length included."""
    get, head = (target.call(path.format(model=target.path), method=method) for method in ("GET", "HEAD"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(get.body)))


def test_identity_of_a_request(target: Target) -> None:
    """`x-request-id` comes back with answers and errors; one that could break a log line is replaced."""
    for path in ("/v2", "/v2/nope"):
        assert target.call(path, headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"
        assert target.call(path, headers={"x-request-id": "a b"}).headers["x-request-id"] not in {"", "a b"}


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5", ""])
def test_wrong_budget(target: Target, value: str) -> None:
    """A time budget is a whole number of milliseconds above 0."""
    answer = target.infer({"inputs": target.inputs()}, headers={"x-request-timeout-ms": value})
    assert "x-request-timeout-ms" in answer.refuses(400)


def _deflated(body: bytes) -> bytes:
    return zlib.compress(body)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", _deflated), ("GZIP", gzip.compress)]
)
def test_compressed_bodies(target: Target, coding: str, compress: Callable[[bytes], bytes]) -> None:
    """RFC 9110 section 8.4: gzip and deflate (zlib format) are understood, their names in any case."""
    text = json.dumps({"inputs": target.inputs(target.entry("FP32", [1, 2]))}).encode()
    answer = target.call(f"{target.path}/infer", compress(text), JSON | {"Content-Encoding": coding})
    assert answer.outputs[target.names("FP32")[1]]["data"] == [1, 2]


PACKED = gzip.compress(b"{}", mtime=0)
COMPRESSIONS: dict[str, tuple[str, bytes, int]] = {
    "unknown": ("br", b"{}", 415),
    "two codings": ("gzip, gzip", PACKED, 415),
    "not compressed": ("gzip", b"{}", 400),
    "cut short": ("gzip", PACKED[:-4], 400),
    "two streams": ("gzip", PACKED * 2, 400),
    "empty": ("gzip", b"", 400),
    "the other coding": ("deflate", PACKED, 400),
}


@pytest.mark.parametrize(("coding", "body", "status"), COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_wrong_compression(target: Target, coding: str, body: bytes, status: int) -> None:
    """415 for a coding that is not spoken, 400 for data that is not one complete stream of the coding."""
    target.call(f"{target.path}/infer", body, JSON | {"Content-Encoding": coding}).refuses(status)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"a\\u0000","shape":[1],"datatype":"FP32","data":[1]}]}',
        b"{" + b",".join(b'"k%d":1' % number for number in range(20_000)) + b"}",
        b'{"inputs":[' + b"{}," * 20_000 + b"{}]}",
        b'{"id":' + b"9" * 100_000 + b',"inputs":[]}',
        b"\xef\xbb\xbf{}",
        b'{"inputs":[],"inputs":[]}',
    ],
    ids=["deep", "deep array", "surrogate", "NUL", "wide", "many inputs", "long number", "byte order mark", "twice"],
)
def test_malicious_json(target: Target, body: bytes) -> None:
    """Deep, wide and broken documents are 400, at once."""
    target.infer(body).refuses(400)
