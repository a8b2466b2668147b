from __future__ import annotations

import gzip
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from oip.messages import InferRequest, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.arrays import F32
    from reference.simulate import Captures

INFER = "/v2/models/localization/infer"
PREDICT = "/api/v1/inference/predict"
TORINO = 2


def _with(value: float, *place: int) -> Callable[[F32], F32]:
    def change(iq: F32) -> F32:
        iq[place] = value
        return iq

    return change


BAD_SAMPLES: dict[str, tuple[Callable[[F32], Any], int, list[str]]] = {
    "NaN": (_with(np.nan, 1, TORINO, 77, 0), 400, ["iq", "item 1", "receiver 2 (Torino)", "sample 77"]),
    "infinite": (_with(-np.inf, 0, 5, 4479, 1), 400, ["iq", "item 0", "receiver 5 (Genova)", "sample 4479"]),
    "dead receiver": (_with(0.0, 1, TORINO), 422, ["iq", "item 1", "receiver 2 (Torino)", "dead"]),
    "constant receiver": (_with(0.25, 0, 6), 422, ["iq", "item 0", "receiver 6 (Milano-Baggio)", "dead"]),
    "unscaled codes": (lambda iq: iq * np.float32(32768), 422, ["iq", "item 0", "receiver", "mean power"]),
    "too few samples": (lambda iq: iq[:, :, :4479], 400, ["iq", "4479", "4480"]),
    "less than a frame": (lambda iq: iq[:, :, :511], 400, ["iq", "511", "512"]),
    "a receiver missing": (lambda iq: iq[:, :6], 400, ["iq", "shape", "R = 7"]),
    "a receiver too many": (lambda iq: np.concatenate([iq, iq[:, :1]], axis=1), 400, ["iq", "shape", "R = 7"]),
    "planar": (lambda iq: np.moveaxis(iq, -1, 2), 400, ["iq", "shape"]),
    "empty batch": (lambda iq: iq[:0], 400, ["iq", "empty"]),
    "one axis": (lambda iq: iq.ravel(), 400, ["iq", "shape"]),
    "no axis": (lambda _: np.array(1.0, np.float32), 400, ["iq", "shape"]),
    "FP64": (lambda iq: iq.astype(np.float64), 400, ["iq", "datatype", "float64"]),
    "BYTES": (lambda _: np.array([b"x"], object), 400, ["iq", "datatype"]),
    "too large a batch": (lambda _: np.ones((257, 7, 512, 2), np.int8), 400, ["iq", "257", "256"]),
}

NOT_IN_JSON = {"NaN", "infinite"}
"""JSON has no such numbers; what is written instead is refused further below."""


def _request(iq: Any, *outputs: str, **parameters: Any) -> InferRequest:  # noqa: ANN401 - any array, any parameter
    return InferRequest((Tensor("iq", iq),), parameters=parameters, outputs=tuple(map(RequestedOutput, outputs)))


@pytest.mark.parametrize(
    ("case", "binary"),
    [(case, binary) for case in BAD_SAMPLES for binary in (True, False) if binary or case not in NOT_IN_JSON],
)
def test_bad_samples(transformer: Any, drawn: Captures, case: str, binary: bool) -> None:  # noqa: ANN401, FBT001
    """Samples that the model must not see are refused over V2 in both encodings, and the place is named."""
    change, status, words = BAD_SAMPLES[case]
    answer = transformer.infer_raw(_request(change(drawn.iq[:2].copy())), binary=binary)
    _expect(answer, status, words)


@pytest.mark.parametrize(
    ("parameters", "outputs", "words"),
    [
        ({"confidence_level": 1.0}, (), ["parameters.confidence_level", "between 0 and 1"]),
        ({"confidence_level": 0}, (), ["parameters.confidence_level"]),
        ({"confidence_level": "0.9"}, (), ["parameters.confidence_level", "number"]),
        ({"cache": 1}, (), ["parameters.cache", "true or false"]),
        ({"session_id": ""}, (), ["parameters.session_id"]),
        ({"session_id": "x" * 257}, (), ["parameters.session_id", "256"]),
        ({"full_scale_dbm": 1e9}, (), ["parameters.full_scale_dbm"]),
        ({"confidense_level": 0.9}, (), ["parameters.confidense_level", "unknown"]),
        ({}, ("position", "altitude"), ["outputs", "altitude"]),
    ],
)
def test_bad_parameters(
    transformer: Any,  # noqa: ANN401 - of conftest.py
    drawn: Captures,
    parameters: dict[str, Any],
    outputs: tuple[str, ...],
    words: list[str],
) -> None:
    """Every parameter and output that is wrong or unknown is refused by its name."""
    _expect(transformer.infer_raw(_request(drawn.iq[:1], *outputs, **parameters)), 400, words)


def test_other_inputs_and_addresses(transformer: Any, drawn: Captures) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A missing or further input is 400; another model or version is 404, for inference and for descriptions."""
    x = Tensor("x", drawn.iq[:1])
    _expect(transformer.infer_raw(InferRequest((x,))), 400, ["inputs", "'x'"])
    _expect(transformer.infer_raw(InferRequest(())), 400, ["inputs"])
    good = _request(drawn.iq[:1])
    for path in ("/v2/models/other", "/v2/models/localization/versions/9"):
        _expect(transformer.infer_raw(good, path=f"{path}/infer"), 404, [path.rsplit("/", 1)[-1]])
        _expect(transformer.call("GET", path), 404, [path.rsplit("/", 1)[-1]])
        _expect(transformer.call("GET", f"{path}/ready"), 404, [path.rsplit("/", 1)[-1]])
    assert transformer.infer_raw(good, path="/v2/models/localization/versions/1/infer").status == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{", {}),
        (b"[]", {}),
        (b"\xff", {}),
        (b'{"inputs": 1}', {}),
        (b'{"inputs":[{"name":"iq","datatype":"FP32","shape":[1,7,4480,2],"data":[1.0]}]}', {}),
        (b'{"inputs":[{"name":"iq","datatype":"FP32","shape":[1],"data":[NaN]}]}', {}),
        (b'{"inputs":[{"name":"iq","datatype":"FP32","shape":[1],"data":[1e39]}]}', {}),
        (b'{"inputs":[{"name":"iq","datatype":"FP32","shape":[2,-2],"data":[1.0]}]}', {}),
        (b'{"inputs":[{"name":"iq","datatype":"FP99","shape":[1],"data":[1.0]}]}', {}),
        (b'{"inputs":[]}', {"Inference-Header-Content-Length": "9999"}),
        (b'{"inputs":[]}', {"Inference-Header-Content-Length": "x"}),
        (b'{"inputs":[]}', {"Content-Encoding": "gzip"}),
        (b'{"inputs":[]}', {"x-request-timeout-ms": "0"}),
    ],
)
def test_broken_messages(transformer: Any, body: bytes, headers: dict[str, str]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """What is no V2 message at all is the client's mistake, and is answered with an error object."""
    _expect(transformer.call("POST", INFER, body, headers), 400, [])


def _rest(iq: Any, **fields: Any) -> bytes:  # noqa: ANN401 - any array, any field
    return orjson.dumps({"iq_data": iq} | fields, option=orjson.OPT_SERIALIZE_NUMPY)


def _spoilt(body: bytes, number: int, text: bytes) -> bytes:
    """The body with the number of that index replaced by a text."""
    parts = body.split(b",")
    brackets = parts[number].rpartition(b"[")
    tail = parts[number][len(parts[number].rstrip(b"]}")) :]
    parts[number] = brackets[0] + brackets[1] + text + tail
    return b",".join(parts)


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (lambda iq: _rest(iq[:6]), 400, ["iq_data", "shape", "R = 7"]),
        (lambda iq: _rest(iq[:, :4479].copy()), 400, ["iq_data", "4479"]),
        (lambda iq: _rest(_with(0.0, TORINO)(iq.copy())), 422, ["iq_data", "receiver 2 (Torino)", "dead"]),
        (lambda iq: _rest([*iq[:6].tolist(), iq[6, :-1].tolist()]), 400, ["iq_data[6]", "4480"]),
        (lambda iq: _spoilt(_rest(iq), 2 * 4480 + 11, b"null"), 400, ["iq_data[1][5][1]", "number"]),
        (lambda iq: _spoilt(_rest(iq), 2 * 4480 + 11, b"NaN"), 400, ["JSON", "iq_data[1][5][1]"]),
        (lambda iq: _spoilt(_rest(iq), 3, b"1e999"), 400, ["JSON", "iq_data[0][1][1]"]),
        (lambda iq: _spoilt(_rest(iq), 2 * 4480 + 11, b"1e39"), 400, ["iq_data", "receiver 1", "sample 5"]),
        (lambda iq: _rest(iq, confidence_level=2), 400, ["confidence_level", "between 0 and 1"]),
        (lambda iq: _rest(iq, cache_enabled="yes"), 400, ["cache_enabled", "true or false"]),
        (lambda iq: _rest(iq, session_id=[]), 400, ["session_id"]),
        (lambda iq: _rest(iq, iq_samples=1), 400, ["iq_samples", "unknown"]),
        (lambda _: b'{"session_id":"a"}', 400, ["iq_data", "missing"]),
        (lambda _: b'{"iq_data":{}}', 400, ["iq_data"]),
        (lambda _: b"[1]", 400, ["object"]),
        (lambda _: b"", 400, ["JSON"]),
    ],
)
def test_bad_rest(
    transformer: Any,  # noqa: ANN401 - of conftest.py
    drawn: Captures,
    spoil: Callable[[F32], bytes],
    status: int,
    words: list[str],
) -> None:
    """The front end's API names its own fields, and the place inside of them; in a batch the item too."""
    body = spoil(drawn.iq[0])
    _expect(transformer.call("POST", PREDICT, body), status, words)
    if body.startswith(b'{"iq_data":['):
        batch = b'{"predictions":[' + _rest(drawn.iq[1]) + b"," + body + b"]}"
        # Of a text that is no JSON, only the place is told.
        words = [word if "JSON" in words else word.replace("iq_data", "predictions[1].iq_data") for word in words]
        _expect(transformer.call("POST", f"{PREDICT}/batch", batch), status, words)


@pytest.mark.parametrize("body", [b"{}", b'{"predictions":[]}', b'{"predictions":[1]}', b'{"predictions":{}}'])
def test_bad_batches(transformer: Any, body: bytes) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A batch is a list with something in it."""
    _expect(transformer.call("POST", f"{PREDICT}/batch", body), 400, ["predictions"])


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_oversized_bodies_are_refused_unread(transformer: Any, path: str) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A body announced as too large is refused with 413 while it has hardly begun to arrive."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n".encode()
    started_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", transformer.http_port), timeout=5.0) as connection:
        connection.sendall(head + b"{" * 1000)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
    assert time.monotonic() - started_s < 2.0
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_compression_bombs_are_refused(transformer: Any, path: str) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The limit holds for what a body decompresses to."""
    bomb = gzip.compress(bytes(65 * 1024 * 1024), compresslevel=1)
    _expect(transformer.call("POST", path, bomb, {"Content-Encoding": "gzip"}), 413, ["larger"])


@pytest.mark.parametrize(("method", "path"), [("GET", PREDICT), ("POST", "/health"), ("DELETE", INFER)])
def test_other_methods(transformer: Any, method: str, path: str) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A method that a path does not have is 405 with the ones that it has."""
    answer = transformer.call(method, path)
    _expect(answer, 405, [])
    assert answer.headers["allow"]


def _expect(answer: Any, status: int, words: list[str]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    for word in words:
        assert word in answer.error


@pytest.fixture(scope="module", autouse=True)
def _still_serving(transformer: Any, predictor: Any, drawn: Captures) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """After all of this both servers still answer."""
    yield
    assert transformer.infer(drawn.iq[:1]).output("position").array.shape == (1, 2)
    assert predictor.ready()
    assert b"Traceback" not in transformer.log.read_bytes()
