"""What is fuzzed: one function of bytes for each parser that a client, a cache or a cluster can reach.

A target returns for every input. It lets only those errors pass that the parser promises, and checks what must hold of
whatever was taken. Where a second implementation exists, the two must agree. Loaded by `run.py` and by the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np
import orjson
import uvicorn
from kserve import InferRequest as SdkRequest
from kserve.errors import InvalidInput
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from uvicorn.server import ServerState

from oip.codec import decode_request, decode_response, encode_request
from oip.errors import OipError
from oip.http import call_context, read_body
from oip.http_connection import HttpConnection
from oip.kserve_messages import request_from_sdk
from oip.messages import InferRequest, TensorMetadata
from oip.routes import Endpoint, route_of
from predictor import v1
from predictor.errors import SignatureError
from transformer import rest_messages
from transformer.cache_entry import BadEntry, decode_entry, encode_entry
from transformer.contract import parse_contract
from transformer.errors import BadContract, BadRequest
from transformer.http_answer import AnswerReader, BadAnswer
from transformer.query import parse_query
from transformer.traffic import parse_traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oip.http import Message, Receive, Scope, Send

_BASE = "http://loc-predictor.radio"
_KEY = b"k" * 32


def v2_binary(data: bytes) -> None:
    """Two bytes: the header's length; then a body. What is taken survives being written and read again."""
    if len(data) < 2:
        return
    (size,), body = struct.unpack("<H", data[:2]), data[2:]
    try:
        request = decode_request(body, size)
    except OipError:
        return
    encoded = encode_request(request)
    _same(request, decode_request(encoded.body, encoded.json_size))


def v2_json(data: bytes) -> None:
    """A JSON body. Numbers are those that the standard library's parser reads."""
    try:
        request = decode_request(data)
    except OipError:
        return
    for tensor, entry in zip(request.inputs, json.loads(data)["inputs"], strict=True):
        assert math.prod(tensor.shape) == tensor.array.size
        if tensor.datatype == "FP64":
            expected = np.array(_flat(entry["data"]), np.float64)
            assert np.array_equal(expected, tensor.array.ravel()), tensor.array


def v2_answer(data: bytes) -> None:
    """Two bytes: the header's length; then a predictor's answer."""
    if len(data) < 2:
        return
    with contextlib.suppress(OipError):
        decode_response(data[2:], struct.unpack("<H", data[:2])[0] or None)


def v2_query(data: bytes) -> None:
    """A V2 body as the transformer reads it, parameters included."""
    with contextlib.suppress(OipError, BadRequest, KeyError):
        query = parse_query(decode_request(data))
        assert 0 < query.confidence_level < 1


def rest_predict(data: bytes) -> None:
    """A REST body. The samples are those that the standard library's parser reads."""
    try:
        request = rest_messages.parse_predict(data)
    except BadRequest:
        return
    _same_samples(json.loads(data)["iq_data"], request.query.iq)
    assert request.session_id


def rest_batch(data: bytes) -> None:
    """A REST batch; no item gets another's samples."""
    try:
        requests = rest_messages.parse_batch(data, 8)
    except BadRequest:
        return
    items = json.loads(data)["predictions"]
    assert len(items) == len(requests) <= 8
    for item, request in zip(items, requests, strict=True):
        _same_samples(item["iq_data"], request.query.iq)


def v1_rows(data: bytes) -> None:
    """A V1 body for a model with one FP32 input, one of text, and one of whole numbers."""
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    for datatype in ("FP32", "BYTES", "INT8", "BOOL"):
        with contextlib.suppress(SignatureError):
            assert v1.decode(payload, (TensorMetadata("x", datatype, (-1,)),)).datatype == datatype


def grpc_request(data: bytes) -> None:
    """A gRPC message, by way of the SDK's own reading."""
    message = ModelInferRequest()
    try:
        message.ParseFromString(data)
        payload = SdkRequest.from_grpc(message)
    except Exception:  # noqa: BLE001 - protobuf's and the SDK's own errors, which the SDK answers itself
        return
    with contextlib.suppress(OipError, InvalidInput):
        request_from_sdk(payload)


def http_head(data: bytes) -> None:
    """One byte: where to cut; then what a connection receives. Whatever is answered is HTTP."""
    if not data:
        return
    cut = 1 + data[0] * len(data) // 256
    written = asyncio.run(_connected([part for part in (data[1:cut], data[cut:]) if part]))
    assert written == b"" or written.startswith(b"HTTP/1.1 ")


def http_headers(data: bytes) -> None:
    """Lines `name: value`, and behind an empty line a body, as an application reads them."""
    head, _, body = data.partition(b"\n\n")
    pairs = [line.partition(b": ") for line in head.split(b"\n")]
    headers = [(name.lower(), value) for name, _, value in pairs if name.lower() != b"content-length"]
    asyncio.run(_application(headers, body))


def http_answer(data: bytes) -> None:
    """One byte: where to cut; then what a predictor's connection says. However it is cut, it means the same."""
    if not data:
        return
    cut = 1 + data[0] * len(data) // 256
    assert _answered([data[1:]]) == _answered([part for part in (data[1:cut], data[cut:]) if part])


def http_path(data: bytes) -> None:
    """A path. However it is written, what another application would route to `/v2` is not handed to it."""
    route = route_of(data)
    if unquote_to_bytes(data).strip(b"/").split(b"/")[0] == b"v2":
        assert route.endpoint is not Endpoint.FOREIGN
    assert "/" not in (route.version or "") or b"%" in data


def cache_entry(data: bytes) -> None:
    """What a store gave for a key. Only finite numbers are taken, and they survive being written and read again."""
    try:
        answer = decode_entry(_KEY, data)
    except BadEntry:
        return
    assert all(map(math.isfinite, (answer.latitude, answer.longitude, answer.sigma_x_m, answer.theta_rad)))
    assert decode_entry(_KEY, encode_entry(_KEY, answer)) == answer


def contract(data: bytes) -> None:
    """A contract's text."""
    try:
        parsed = parse_contract(data)
    except BadContract:
        return
    assert parsed.features.frames == 1 + (parsed.samples - parsed.features.fft_size) // parsed.features.hop_size
    assert all(0 < parsed.ellipse_scale.k(level) < math.inf for level in (1e-6, 0.5, 1 - 1e-9))


def traffic(data: bytes) -> None:
    """An InferenceService's status, if its types are the CRD's. Shares add up, and no foreign host is asked."""
    with contextlib.suppress(orjson.JSONDecodeError):
        status = orjson.loads(data)
        if not _as_the_crd_says(status):
            return
        arms = parse_traffic({"status": status}, _BASE).arms
        hosts = [arm.base_url.removeprefix("http://") for arm in arms.candidates]
        assert all(host.endswith("loc-predictor.radio") and "/" not in host for host in hosts), hosts
        assert sum(arm.percent for arm in arms.candidates) == 100


# --- oracles ----------------------------------------------------------------------------------------------------------


def _same(one: InferRequest, other: InferRequest) -> None:
    assert (one.id, one.parameters, one.outputs) == (other.id, other.parameters, other.outputs)
    for left, right in zip(one.inputs, other.inputs, strict=True):
        assert (left.name, left.datatype, left.shape) == (right.name, right.datatype, right.shape)
        assert left.array.tobytes() == right.array.tobytes() or left.datatype == "BYTES"
        assert left.datatype != "BYTES" or left.array.ravel().tolist() == right.array.ravel().tolist()


def _flat(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list) else [value]


def _same_samples(told: object, found: np.ndarray[Any, np.dtype[Any]]) -> None:
    with np.errstate(over="ignore"):
        expected = np.array(told, np.float64).astype(np.float32)
    assert found.shape[1:] == expected.shape, (found.shape, expected.shape)
    assert np.array_equal(found[0], expected), (found, expected)


def _as_the_crd_says(status: object) -> bool:
    """Whether the members that are read have the types that the API server makes sure of."""
    members = status if isinstance(status, dict) else {"components": 0}
    predictor = members.get("components", {})
    predictor = predictor.get("predictor", {}) if isinstance(predictor, dict) else 0
    if not isinstance(predictor, dict):
        return False
    targets, conditions = predictor.get("traffic", []), members.get("conditions", [])
    types: Mapping[str, type] = {"revisionName": str, "percent": int, "tag": str, "latestRevision": bool}
    return (
        isinstance(targets, list)
        and isinstance(conditions, list)
        and all(isinstance(one, dict) for one in [*targets, *conditions])
        and all(type(one[name]) is kind for one in targets for name, kind in types.items() if name in one)
        and all(_is_label(one.get("tag", "")) for one in targets)
        and isinstance(predictor.get("latestReadyRevision", ""), str)
    )


def _is_label(tag: str) -> bool:
    """Whether Knative's webhook would let it pass as a tag: letters, digits and hyphens of DNS (RFC 1123)."""
    return tag.isascii() and tag.replace("-", "a").isalnum() if tag else True


class _Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _sink(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


_CONFIG = uvicorn.Config(_sink, http=HttpConnection, ws="none", log_config=None, access_log=False, lifespan="off")
_CONFIG.load()


async def _connected(chunks: list[bytes]) -> bytes:
    wire, state = _Wire(), ServerState()
    connection = HttpConnection(_CONFIG, state, {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    for chunk in chunks:
        if not wire.closed:
            connection.data_received(chunk)
        await asyncio.sleep(0)
    tasks = list(state.tasks)
    connection.connection_lost(ConnectionResetError())
    await asyncio.gather(*tasks)
    return wire.written


def _answered(parts: list[bytes]) -> tuple[object, ...]:
    """What an answer's reader makes of these parts; a refusal is one thing, whatever its words."""
    reader = AnswerReader(max_head_bytes=10**6)
    try:
        for part in parts:
            reader.feed(part)
        reader.end()
    except BadAnswer:
        return ("refused",)
    return (None,) if reader.answer is None else (reader.answer.status, reader.answer.headers, reader.answer.body)


async def _application(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    scope: Scope = {"headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    with contextlib.suppress(OipError):
        context = call_context(scope, 30.0)
        assert 0 < len(context.request_id) <= 128
        assert context.request_id.isprintable()
        assert len(await read_body(scope, receive, 4096)) <= 4096


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(v2_binary, v2_json, v2_answer, v2_query, rest_predict, rest_batch, v1_rows, grpc_request),
        *(http_head, http_headers, http_path, http_answer, cache_entry, contract, traffic),
    )
}
