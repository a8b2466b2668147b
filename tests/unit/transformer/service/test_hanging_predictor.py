"""A predictor that takes requests and never answers: a real server, met by clients with little time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from oip.asgi import OpenInferenceApplication
from oip.codec import encode_request
from oip.messages import InferRequest, Tensor
from transformer.predictor_client import PredictorClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from prometheus_client import CollectorRegistry

    from oip.messages import Array, CallContext, InferResponse

REQUESTS = 40


class Hanging:
    """Reads requests and never answers.

    Attributes:
        calls: How often it was called.
        read_bytes: What it has read.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.read_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        while data := await reader.read(1 << 16):
            self.read_bytes += len(data)
        writer.close()


@pytest.fixture
async def hanging(predictor: Any) -> AsyncIterator[Hanging]:  # noqa: ANN401 - of conftest.py
    """The predictor describes itself as ever; whatever is to be inferred goes to the server that hangs."""
    hanging, client = Hanging(), PredictorClient("localization", connect_timeout_s=1.0, metadata_timeout_s=1.0)
    async with await asyncio.start_server(hanging.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def infer(_base_url: str, request: InferRequest, context: CallContext) -> InferResponse:
            hanging.calls += 1
            return await client.infer(url, request, context)

        predictor.infer = infer
        yield hanging
        await client.close()


def _v2(iq: Array) -> tuple[str, bytes, tuple[bytes, bytes]]:
    encoded = encode_request(InferRequest((Tensor("iq", iq),)))
    return (
        "/v2/models/localization/infer",
        encoded.body,
        (b"inference-header-content-length", b"%d" % encoded.json_size),
    )


def _rest(iq: Array) -> tuple[str, bytes, tuple[bytes, bytes]]:
    body = orjson.dumps({"iq_data": iq[0]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return "/predict", body, (b"content-type", b"application/json")


@pytest.mark.parametrize("protocol", [_v2, _rest])
async def test_every_call_that_hung_is_evidence(
    make_rest: Callable[..., Any],
    make_model: Callable[..., Any],
    hanging: Hanging,
    counted: Any,  # noqa: ANN401 - of conftest.py
    registry: CollectorRegistry,
    iq: Array,
    protocol: Callable[[Array], tuple[str, bytes, tuple[bytes, bytes]]],
) -> None:
    """Clients that wait 80 to 200 ms get 504, and each call counts as the arm's timeout, with how long it took.

    The service is not to blame: it had promised more time than that.
    """
    rest = make_rest()
    if protocol is _v2:
        model = make_model()
        rest.app = OpenInferenceApplication(model, rest.app, observer=model.observed.request)

    async def ask(index: int) -> int:
        await asyncio.sleep(0.01 * index)
        path, body, header = protocol(iq * np.float32(1.0 - 0.01 * index))
        budget_ms = 80 + 120 * index // REQUESTS
        answer = await rest.call("POST", path, body, header, (b"x-request-timeout-ms", b"%d" % budget_ms))
        return int(answer.status)

    statuses = await asyncio.gather(*map(ask, range(REQUESTS)))
    assert statuses == [504] * REQUESTS
    assert hanging.read_bytes > 0
    assert counted("upstream_requests", arm="stable", revision="", code="timeout") == hanging.calls
    labels = {"arm": "stable", "revision": ""}
    assert registry.get_sample_value("transformer_upstream_duration_seconds_count", labels) == hanging.calls
    assert (
        registry.get_sample_value("transformer_upstream_duration_seconds_sum", labels) or 0.0
    ) > 0.01 * hanging.calls
    told = "" if protocol is _v2 else "localization"  # a V2 client's word for it is not taken before it was answered
    assert counted("requests", model=told, version="", code="499") == REQUESTS


async def test_a_hang_beyond_the_predictors_own_time(
    make_rest: Callable[..., Any],
    hanging: Hanging,
    counted: Any,  # noqa: ANN401 - of conftest.py
    iq: Array,
) -> None:
    """Where the predictor uses up its own time, and not the client's, the service has failed, whoever lowered what."""
    rest = make_rest(predictor_request_timeout_seconds=1)
    path, body, header = _rest(iq)
    answer = await rest.call("POST", path, body, header, (b"x-request-timeout-ms", b"5000"))
    assert (answer.status, hanging.calls) == (504, 1)
    assert counted("upstream_requests", arm="stable", revision="", code="timeout") == 1
    assert counted("requests", model="localization", version="", code="504") == 1
