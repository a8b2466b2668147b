"""Captures to a running service and its answers back: binary V2 over HTTP.

What belongs here: requests, their bounds and timeouts, and the reading of answers. What does not: judging them.
"""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

from oip.codec import decode_response, encode_request
from oip.errors import OipError
from oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from reference.errors import ServiceFailed
from reference.estimates import LEVELS, Estimates, concatenated

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from reference.arrays import F32, F64
    from reference.simulate import Captures

MODEL_NAME = "localization"
JSON_SIZE_HEADER = "Inference-Header-Content-Length"

_BATCH_CASES = 8
_IN_FLIGHT = 4
_SHAPES: dict[str, tuple[int, ...]] = {"position": (2,), "covariance": (2, 2), "ellipse": (3,), "confidence": ()}


class Service:
    """A transformer at `url`; use it as an asynchronous context manager.

    Args:
        url: Such as http://127.0.0.1:8080.
        timeout_s: For every single request.
        headers: Sent with every request (a `Host`, when an ingress routes by it).
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, headers: dict[str, str] | None = None) -> None:
        self._url = f"{url.rstrip('/')}/v2/models/{MODEL_NAME}/infer"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s), headers=headers, trust_env=False
        )
        self._slots = asyncio.Semaphore(_IN_FLIGHT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def estimate(self, captures: Captures, levels: tuple[float, ...] = LEVELS) -> Estimates:
        """Answers to a block of captures, with the ellipses that the service itself returns at every level.

        Raises:
            ServiceFailed: Refused, broken off, too late, or not the outputs asked for.
        """
        iq = captures.iq
        batches = [iq[start : start + _BATCH_CASES] for start in range(0, len(iq), _BATCH_CASES)]
        return concatenated(await asyncio.gather(*(self._batch(batch, levels) for batch in batches)))

    async def _batch(self, iq: F32, levels: tuple[float, ...]) -> Estimates:
        """Everything at the first level, then the ellipse alone at the others: only its size depends on the level.

        One session, so that during a canary all levels are answered by the same version.
        """
        first, *others = levels
        session = uuid.uuid4().hex
        main = await self._infer(iq, first, session, ("position", "covariance", "confidence", "ellipse"))
        ellipses = {first: main["ellipse"]}
        for level in others:
            ellipses[level] = (await self._infer(iq, level, session, ("ellipse",)))["ellipse"]
        return Estimates(main["position"], main["covariance"], main["confidence"], ellipses)

    async def _infer(self, iq: F32, level: float, session: str, outputs: tuple[str, ...]) -> dict[str, F64]:
        request = InferRequest(
            inputs=(Tensor("iq", iq),),
            parameters={"confidence_level": level, "session_id": session},
            outputs=tuple(RequestedOutput(name) for name in outputs),
            binary_output=True,
        )
        async with self._slots:
            response = await self._post(request)
        return {name: _checked(response, name, (len(iq), *_SHAPES[name])) for name in outputs}

    async def _post(self, request: InferRequest) -> InferResponse:
        encoded = encode_request(request)
        headers = {"Content-Type": "application/octet-stream", JSON_SIZE_HEADER: str(encoded.json_size)}
        try:
            async with self._session.post(self._url, data=io.BytesIO(encoded.body), headers=headers) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise ServiceFailed(f"{self._url} answered {answer.status}: {body[:200].decode(errors='replace')}")
                size = answer.headers.get(JSON_SIZE_HEADER)
                return decode_response(body, None if size is None else int(size))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServiceFailed(f"{self._url} cannot be asked: {str(error) or type(error).__name__}") from error
        except (OipError, ValueError) as error:
            raise ServiceFailed(f"{self._url} does not speak V2: {error}") from error


def _checked(response: InferResponse, name: str, shape: tuple[int, ...]) -> F64:
    try:
        array = response.output(name).array
    except KeyError as error:
        raise ServiceFailed(f"the answer has no output '{name}'") from error
    if array.shape != shape:
        raise ServiceFailed(f"output '{name}' has shape {array.shape} instead of {shape}")
    return np.asarray(array, dtype=np.float64)
