"""Bodies that no client would send, through the ASGI application in this process: a status of ours, never an exception.

`corpus/` keeps bodies that once were interesting, as `NAME.HEADER-LENGTH.bin` (`x` for no header); each is replayed.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from oip.asgi import OpenInferenceApplication
from oip.messages import InferResponse, ModelMetadata, ServerMetadata, Tensor

if TYPE_CHECKING:
    from oip.http import Message, Scope
    from oip.messages import CallContext, InferRequest

pytestmark = pytest.mark.profile("own")

CORPUS = Path(__file__).parent / "corpus"
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
STATUSES = {200, 400, 413, 415}
LIMIT_BYTES = 100_000


class Echo:
    """A backend without a model: its outputs are the inputs."""

    def server_metadata(self) -> ServerMetadata:
        """Fixed."""
        return ServerMetadata("echo", "0")

    async def server_ready(self) -> bool:
        """Always."""
        return True

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Any."""
        return bool(model_name or version)

    async def model_metadata(self, model_name: str, _version: str | None) -> ModelMetadata:
        """No tensors."""
        return ModelMetadata(model_name, "echo", (), ())

    async def infer(
        self, model_name: str, _version: str | None, request: InferRequest, _context: CallContext
    ) -> InferResponse:
        """The inputs."""
        return InferResponse(model_name, tuple(Tensor(one.name, one.array) for one in request.inputs), "1", request.id)


async def _nothing(_scope: Scope, _receive: object, _send: object) -> None:
    raise AssertionError("nothing here is foreign")


APPLICATION = OpenInferenceApplication(Echo(), _nothing, max_body_bytes=LIMIT_BYTES, max_json_bytes=LIMIT_BYTES // 2)


async def _status(body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Send one body; the answer must be well-formed whatever its status."""
    sent: list[Message] = []
    scope: Scope = {"type": "http", "method": "POST", "path": "", "raw_path": b"/v2/models/m/infer", "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await APPLICATION(scope, receive, send)
    answer, names = sent[1]["body"], dict(sent[0]["headers"])
    assert int(names[b"content-length"]) == len(answer)
    members = json.loads(answer[: int(names.get(b"inference-header-content-length", len(answer)))])
    assert "outputs" in members if sent[0]["status"] == 200 else isinstance(members["error"], str)
    return int(sent[0]["status"])


DATATYPES = "BOOL UINT8 UINT64 INT8 INT32 INT64 FP16 FP32 FP64 BYTES FP8 bool"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SIZES = st.integers(-2, 12) | st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**70]) | JSON
PARAMETERS = st.dictionaries(st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "x"]), SIZES)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", ""]) | JSON,
        "datatype": st.sampled_from(DATATYPES.split()) | JSON,
        "shape": st.lists(SIZES, max_size=3) | JSON,
        "data": JSON,
        "parameters": PARAMETERS | JSON,
    },
)
ENVELOPE = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3) | JSON},
    optional={"id": JSON, "parameters": PARAMETERS | JSON, "outputs": st.lists(TENSOR, max_size=2) | JSON},
)


def _valid(raw: bytes) -> bytes:
    tensors = [
        {"name": "a", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw) - 16}},
        {"name": "c", "datatype": "INT64", "shape": [1], "data": [2**53 + 1]},
    ]
    return json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()


RAW = np.arange(4, dtype="<f4").tobytes() + b"\x01\0\0\0a\x02\0\0\0bc"
TEXT = _valid(RAW)


@QUICK
@given(envelope=ENVELOPE, raw=st.binary(max_size=24), shift=st.integers(-3, 3), framed=st.booleans())
@example(
    envelope={"inputs": [{"name": "a", "datatype": "BYTES", "shape": [2**62], "data": []}]},
    raw=b"",
    shift=0,
    framed=True,
)
@example(
    envelope={"inputs": [{"name": "a", "datatype": "FP32", "shape": [0, 2**64], "data": []}]},
    raw=b"",
    shift=0,
    framed=True,
)
async def test_envelopes(envelope: dict[str, Any], raw: bytes, shift: int, *, framed: bool) -> None:
    """Envelopes of the right words in the wrong places, with any bytes behind them."""
    text = json.dumps(envelope).encode()
    size = max(0, len(text) + shift)
    headers = [(b"inference-header-content-length", b"%d" % size)] if framed else []
    assert await _status(text + raw, headers) in STATUSES


@QUICK
@given(data=st.data())
async def test_mutated_bodies(data: st.DataObject) -> None:
    """A valid binary request with bytes changed, cut out or put in, and any length header."""
    body = bytearray(TEXT + RAW)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    size = data.draw(st.just(b"%d" % len(TEXT)) | st.integers(-1, 400).map(lambda n: b"%d" % n) | st.binary(max_size=3))
    assert await _status(bytes(body), [(b"inference-header-content-length", size)]) in STATUSES


@QUICK
@given(data=st.data(), coding=st.sampled_from([b"gzip", b"deflate", b"GZIP ", b"br", b""]))
async def test_mutated_compression(data: st.DataObject, coding: bytes) -> None:
    """The same for compressed bodies."""
    body = bytearray(gzip.compress(TEXT + RAW, mtime=0))
    for _ in range(data.draw(st.integers(0, 2))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    headers = [(b"inference-header-content-length", b"%d" % len(TEXT)), (b"content-encoding", coding)]
    assert await _status(bytes(body), headers) in STATUSES


HEADERS = [
    *(b"inference-header-content-length", b"content-encoding", b"x-request-id", b"x-request-timeout-ms"),
    *(b"traceparent", b"tracestate", b"content-type", b"accept-encoding"),
]


@QUICK
@given(
    values=st.lists(
        st.tuples(
            st.sampled_from(HEADERS),
            st.binary(max_size=40),
        )
    )
)
async def test_headers(values: list[tuple[bytes, bytes]]) -> None:
    """Any bytes in any header that is read."""
    assert await _status(TEXT + RAW, values) in STATUSES


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*.bin")))
def test_corpus(name: str) -> None:
    """What once was interesting is refused (or, where the name says `ok`, answered), quickly and in little memory."""
    size = name.split(".")[-2]
    headers = [] if size == "x" else [(b"inference-header-content-length", size.encode())]
    tracemalloc.start()
    started_s = time.monotonic()
    try:
        status = asyncio.run(_status((CORPUS / name).read_bytes(), headers))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == (200 if name.startswith("ok") else 400)
    assert time.monotonic() - started_s < 3
    assert peak_bytes < 8 * 1024 * 1024
