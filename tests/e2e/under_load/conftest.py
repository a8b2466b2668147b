"""A constant load from outside the cluster, and what came of every single request of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import numpy as np
import pytest

from oip.codec import decode_response

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from conftest import Service

JSON_SIZE = "Inference-Header-Content-Length"
INFER = "/v2/models/localization/infer"
_CALL_S = 30.0


class Sent(NamedTuple):
    """One request of a load and what came of it; times are monotonic seconds."""

    start_s: float
    end_s: float
    status: int
    digest: str
    error: str
    retry_after: str


@dataclass
class Load:
    """An open loop: `rate_hz` requests a second, whether or not earlier ones are answered; no retries by the client."""

    service: Service
    rate_hz: float = 30.0
    cache: bool = False
    sent: list[Sent] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(_CALL_S + 5.0)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CALL_S)) as session:
            tasks, next_s = [], time.monotonic()
            while not self._stop.is_set():
                tasks.append(asyncio.create_task(self._one(session)))
                next_s += 1.0 / self.rate_hz
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        body, headers = self.service.encoded(cache=self.cache)
        start_s, status, digest, error, retry_after = time.monotonic(), 0, "", "", ""
        try:
            async with session.post(self.service.ingress + INFER, data=body, headers=headers) as response:
                status, retry_after, answer = (
                    response.status,
                    response.headers.get("Retry-After", ""),
                    await response.read(),
                )
            if status == 200:
                size = response.headers.get(JSON_SIZE)
                digest = str(decode_response(answer, None if size is None else int(size)).parameters["model_digest"])
            else:
                error = answer.decode(errors="replace")[:200]
        except (aiohttp.ClientError, TimeoutError) as failure:
            error = repr(failure)
        self.sent.append(Sent(start_s, time.monotonic(), status, digest, error, retry_after))

    @property
    def failed(self) -> Counter[tuple[int, str]]:
        """Status and message of every request that was not answered with 200."""
        return Counter((one.status, one.error) for one in self.sent if one.status != 200)

    def summary(self) -> str:
        """Requests, failures, latencies and the longest time between two answers."""
        ends = np.sort([one.end_s for one in self.sent])
        latency_ms = np.array([one.end_s - one.start_s for one in self.sent]) * 1e3
        p50, p99 = np.percentile(latency_ms, [50, 99])
        gap_ms = np.diff(ends).max(initial=0.0) * 1e3
        failures = sum(self.failed.values())
        return (
            f"failed {failures}/{len(self.sent)}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {latency_ms.max():.0f} ms,"
            f" gap {gap_ms:.0f} ms"
        )


@pytest.fixture
def load(service: Service) -> Callable[..., Load]:
    """Makes a load on the service, for use with `with`; 30 requests a second unless told otherwise."""
    return partial(Load, service)
