"""The way to the predictor: one pooled keep-alive HTTP client that speaks V2 binary.

What belongs here: connections, timeouts, and the translation of what the network and the predictor say into this
room's errors. What does not: which arm a request goes to, and what the tensors mean.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from oip.codec import decode_response, encode_request
from oip.metadata import decode_error, decode_model_metadata
from transformer.errors import AnswerCutShort, GatewayRefused, PredictorRefused, PredictorSilent, PredictorUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from oip.messages import CallContext, InferRequest, InferResponse, ModelMetadata

# aiohttp's own defaults for these say nothing that the predictor reads, and cost bytes and time in every request.
_SKIPPED_HEADERS = ("User-Agent", "Accept", "Accept-Encoding")


class PredictorClient:
    """Calls one model on any host that serves it.

    Args:
        model_name: The model's name at the predictor.
        connect_timeout_s: For opening a connection; short, so that a dead host is known at once.
        metadata_timeout_s: For the calls that carry no work: readiness and metadata.
    """

    def __init__(self, model_name: str, *, connect_timeout_s: float, metadata_timeout_s: float) -> None:
        self._path = f"/v2/models/{quote(model_name, safe='')}"
        self._connect_timeout_s = connect_timeout_s
        self._metadata_timeout_s = metadata_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ready(self, base_url: str) -> bool:
        """Whether the predictor says that the model is ready; False when it cannot be reached."""
        try:
            async with self._exchange("GET", base_url, "/ready", timeout_s=self._metadata_timeout_s) as response:
                return response.status == 200  # noqa: PLR2004 - HTTP's own number reads better than a name for it
        except (PredictorUnreachable, PredictorSilent):
            return False

    async def metadata(self, base_url: str) -> ModelMetadata:
        """The model's metadata; raises `PredictorUnreachable`, `PredictorSilent`, `PredictorRefused`."""
        async with self._exchange("GET", base_url, "", timeout_s=self._metadata_timeout_s) as response:
            return decode_model_metadata(await _body(response))

    async def infer(self, base_url: str, request: InferRequest, context: CallContext) -> InferResponse:
        """Send one request in binary and read the answer, within the request's deadline.

        Raises:
            PredictorUnreachable: No connection, or it died; nothing says that the work was done.
            AnswerCutShort: It died within the answer.
            PredictorSilent: The deadline passed.
            PredictorRefused: The predictor answered with an error.
            GatewayRefused: Somebody on the way answered with an error.
        """
        remaining_s = context.deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise PredictorSilent("no time is left to call the predictor")
        encoded = encode_request(request, binary=True)
        headers = _headers(context, remaining_s)
        if encoded.json_size is not None:
            headers["Inference-Header-Content-Length"] = str(encoded.json_size)
        async with self._exchange(
            "POST", base_url, "/infer", timeout_s=remaining_s, headers=headers, body=encoded.body
        ) as response:
            body = await _body(response)
            json_size = response.headers.get("Inference-Header-Content-Length")
            return decode_response(body, int(json_size) if json_size and json_size.isdecimal() else None)

    async def close(self) -> None:
        """Close the pooled connections; the next call would open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        base_url: str,
        suffix: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(f"{base_url}{self._path}{suffix}", encoded=True)
        answered = False
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._pool().request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                answered = True
                yield response
        except aiohttp.ClientError as error:  # first: a connection that is not opened in time is both
            if answered:
                raise AnswerCutShort("the predictor died within its answer") from error
            raise PredictorUnreachable("the predictor cannot be reached") from error
        except TimeoutError as error:
            raise PredictorSilent(f"the predictor did not answer within {timeout_s:.3g} s") from error

    def _pool(self) -> aiohttp.ClientSession:
        # Made at the first call, because a session belongs to the event loop that it is made in.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, ttl_dns_cache=5),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_SKIPPED_HEADERS,
                auto_decompress=False,
            )
        return self._session


def _headers(context: CallContext, remaining_s: float) -> dict[str, str]:
    """What travels with the request: content type, deadline, request id and trace context."""
    headers = {
        "Content-Type": "application/octet-stream",
        "x-request-id": context.request_id,
        "x-request-timeout-ms": str(max(1, int(remaining_s * 1000))),
    }
    if context.traceparent:
        headers["traceparent"] = context.traceparent
    if context.tracestate:
        headers["tracestate"] = context.tracestate
    return headers


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a good answer; raises `PredictorRefused` with the predictor's own words for any other."""
    body = await response.read()
    if response.status == 200:  # noqa: PLR2004 - HTTP's own number reads better than a name for it
        return body
    raise _refusal(response, body)


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> PredictorRefused:
    retry_after = response.headers.get("Retry-After", "")
    retry_after_s = int(retry_after) if retry_after.isdecimal() else None
    message, details = decode_error(body)
    if not message:  # a proxy's page is of no use to the client
        message = f"the predictor's side answered with status {response.status}"
        return GatewayRefused(message, status=response.status, retry_after_s=retry_after_s)
    return PredictorRefused(message, status=response.status, retry_after_s=retry_after_s, details=details)
