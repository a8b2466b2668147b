"""Two services or one pod: what a start under load and the hop between the processes cost in each."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Load, Service

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.proof,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True),
]

INFER = "/v2/models/localization/infer"
REQUESTS = 600


def test_a_new_revision_takes_over_without_an_error(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """No canary, just another model: the pod that starts gets its first request when both processes can answer it."""
    with load() as sent:
        service.roll_out("better")
        service.cluster.wait_until(
            lambda: service.newest_is_live() and len(service.traffic()) == 1, 60, "the new revision has it all"
        )
        time.sleep(5.0)
    service.settle()
    record_property("a new revision", sent.summary())
    assert not sent.failed
    assert sent.sent[-1].digest == service.digests["better"]


def test_one_request_after_the_other(service: Service, record_property: Callable[[str, object], None]) -> None:
    """The latency of a single client; the difference between the modes is what the hop costs."""
    latency_ms = asyncio.run(_latencies_ms(service))
    p50, p99 = np.percentile(latency_ms, [50, 99])
    record_property("latency of one client", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    assert p50 < 100.0


async def _latencies_ms(service: Service) -> list[float]:
    """Closed loop over one connection, computed anew each time."""
    body, headers = service.encoded()
    found: list[float] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30.0)) as session:
        for _ in range(REQUESTS):
            start_s = time.perf_counter()
            async with session.post(service.ingress + INFER, data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200
            found.append((time.perf_counter() - start_s) * 1e3)
    return found
