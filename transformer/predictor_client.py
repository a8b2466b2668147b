"""The way to the predictor: one pooled keep-alive HTTP client that speaks V2 binary.

What belongs here: connections, timeouts, and the translation of what the network and the predictor say into this
room's errors. What does not: which arm a request goes to, and what the tensors mean.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from oip.codec import decode_response, encode_request_parts
from oip.metadata import decode_error, decode_model_metadata
from transformer.errors import AnswerCutShort, GatewayRefused, PredictorRefused, PredictorSilent, PredictorUnreachable
from transformer.http_answer import BadAnswer
from transformer.http_client import HttpClient, Unconnected, origin_of
from transformer.http_exchange import Disconnected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oip.messages import CallContext, InferRequest, InferResponse, ModelMetadata
    from transformer.http_answer import HttpAnswer

_OK = 200
_NOT_IN_A_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What RFC 9110, section 5.5, allows in no header's value; an end of line would begin a header of its own."""


class PredictorClient:
    """Calls one model on any host that serves it.

    Args:
        model_name: The model's name at the predictor.
        connect_timeout_s: For opening a connection; short, so that a dead host is known at once.
        metadata_timeout_s: For the calls that carry no work: readiness and metadata.
    """

    def __init__(self, model_name: str, *, connect_timeout_s: float, metadata_timeout_s: float) -> None:
        self._path = f"/v2/models/{quote(model_name, safe='')}"
        self._metadata_timeout_s = metadata_timeout_s
        self._http = HttpClient(connect_timeout_s=connect_timeout_s)

    async def ready(self, base_url: str) -> bool:
        """Whether the predictor says that the model is ready; False when it cannot be reached."""
        try:
            answer = await self._exchange("GET", base_url, "/ready", timeout_s=self._metadata_timeout_s)
        except (PredictorUnreachable, PredictorSilent):
            return False
        return answer.status == _OK

    async def metadata(self, base_url: str) -> ModelMetadata:
        """The model's metadata; raises `PredictorUnreachable`, `PredictorSilent`, `PredictorRefused`."""
        return decode_model_metadata(
            _body(await self._exchange("GET", base_url, "", timeout_s=self._metadata_timeout_s))
        )

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
        encoded = encode_request_parts(request)
        headers = _headers(context, remaining_s, sum(map(len, encoded.parts)), encoded.json_size)
        answer = await self._exchange(
            "POST", base_url, "/infer", timeout_s=remaining_s, headers=headers, body=encoded.parts
        )
        json_size = answer.headers.get(b"inference-header-content-length")
        return decode_response(_body(answer), int(json_size) if json_size and json_size.isdigit() else None)

    async def close(self) -> None:
        """Close the pooled connections; the next call would open new ones."""
        await self._http.close()

    async def _exchange(
        self,
        method: str,
        base_url: str,
        suffix: str,
        *,
        timeout_s: float,
        headers: str = "",
        body: Sequence[bytes | memoryview] = (),
    ) -> HttpAnswer:
        origin = origin_of(base_url)
        head = f"{method} {self._path}{suffix} HTTP/1.1\r\nHost: {origin.authority}\r\n{headers}\r\n"
        try:
            return await self._http.exchange(origin, (head.encode("latin-1", "replace"), *body), timeout_s)
        except TimeoutError as error:
            raise PredictorSilent(f"the predictor did not answer within {timeout_s:.3g} s") from error
        except Unconnected as error:
            raise PredictorUnreachable("the predictor cannot be reached") from error
        except Disconnected as error:
            if error.answer_begun:
                raise AnswerCutShort("the predictor died within its answer") from error
            if error.reused:
                raise PredictorUnreachable("the predictor closed a connection that was in use before") from error
            raise PredictorUnreachable("the predictor died before its answer") from error
        except BadAnswer as error:
            raise AnswerCutShort(f"what came from the predictor's side is no answer: {error}") from error


def _headers(context: CallContext, remaining_s: float, body_bytes: int, json_size: int | None) -> str:
    """What travels with the request: content type and lengths, deadline, request id and trace context."""
    lines = [
        f"Content-Type: application/octet-stream\r\nContent-Length: {body_bytes}\r\n",
        f"x-request-timeout-ms: {max(1, int(remaining_s * 1000))}\r\n",
        _line("x-request-id", context.request_id),
    ]
    if json_size is not None:
        lines.append(f"Inference-Header-Content-Length: {json_size}\r\n")
    if context.traceparent:
        lines.append(_line("traceparent", context.traceparent))
    if context.tracestate:
        lines.append(_line("tracestate", context.tracestate))
    return "".join(lines)


def _line(name: str, value: str) -> str:
    """A header line; what a header cannot carry is left out of its value."""
    return f"{name}: {_NOT_IN_A_HEADER.sub('', value)}\r\n"


def _body(answer: HttpAnswer) -> bytes:
    """The body of a good answer; raises `PredictorRefused` with the predictor's own words for any other."""
    if answer.status == _OK:
        return answer.body
    raise _refusal(answer)


def _refusal(answer: HttpAnswer) -> PredictorRefused:
    retry_after = answer.headers.get(b"retry-after", b"")
    retry_after_s = int(retry_after) if retry_after.isdigit() else None
    message, details = decode_error(answer.body)
    if not message:  # a proxy's page is of no use to the client
        message = f"the predictor's side answered with status {answer.status}"
        return GatewayRefused(message, status=answer.status, retry_after_s=retry_after_s)
    return PredictorRefused(message, status=answer.status, retry_after_s=retry_after_s, details=details)
