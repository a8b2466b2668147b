"""A canary through the transformer: the split, promotion and rollback, with every request accounted for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(900)]

INFER = "/v2/models/localization/infer"
REQUESTS = 10_000
CONNECTIONS = 16


@pytest.fixture(autouse=True)
def settled(service: Service) -> Iterator[None]:
    """Each test starts from one revision with the reference model."""
    yield
    service.settle()


@pytest.mark.parametrize("cache", [False, True], ids=["computed", "cached"])
def test_ten_percent_are_ten_percent(
    service: Service, record_property: Callable[[str, object], None], *, cache: bool
) -> None:
    """Of 10,000 requests 10 ± 1 points go to the canary: more than three standard deviations of a fair draw."""
    service.roll_out("better", percent=10)
    service.cluster.wait_until(service.newest_is_live, 60, "the canary is live")
    time.sleep(2.0)
    digests = asyncio.run(_many(service, REQUESTS, cache=cache))
    share = digests[service.digests["better"]] / REQUESTS
    record_property("share of the canary", share)
    assert sum(digests.values()) == REQUESTS
    assert share == pytest.approx(0.10, abs=0.01)


async def _many(service: Service, count: int, *, cache: bool) -> Counter[str]:
    """Digests of the models that answered, from a closed loop over a few connections."""
    body, headers = service.encoded(cache=cache)
    digests: Counter[str] = Counter()
    left = iter(range(count))

    async def worker(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(
                service.ingress + "/v2/models/localization/infer", data=body, headers=headers
            ) as got:
                answer = await got.read()
                assert got.status == 200, answer[:300]
            digests.update(digest for digest in service.digests.values() if digest.encode() in answer)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30.0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(CONNECTIONS)))
    return digests


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_promotion_and_rollback_lose_nothing(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """Start, promote, roll back at 30 requests/s: none fails, and a version that the status shows gone is gone."""
    better, reference = service.digests["better"], service.digests["reference"]
    with load() as sent:
        service.roll_out("better", percent=10)
        service.cluster.wait_until(service.newest_is_live, 60, "the canary is live")
        time.sleep(5.0)
        service.roll_out("better", percent=100)
        service.cluster.wait_until(service.newest_is_live, 60, "the canary is promoted")
        promoted_s = time.monotonic()
        time.sleep(8.0)
        service.roll_out("overconfident", percent=50)
        service.cluster.wait_until(service.newest_is_live, 60, "the next canary is live")
        time.sleep(5.0)
        service.roll_out("overconfident", percent=0)
        service.cluster.wait_until(service.newest_is_live, 60, "the next canary is rolled back")
        back_s = time.monotonic()
        time.sleep(8.0)
    record_property("promotion and rollback", sent.summary())
    assert not sent.failed
    answered = {one.digest for one in sent.sent}
    assert answered == {reference, better, service.digests["overconfident"]}
    assert {one.digest for one in sent.sent if one.start_s > promoted_s} <= {better, service.digests["overconfident"]}
    assert {one.digest for one in sent.sent if one.start_s > back_s} == {better}
