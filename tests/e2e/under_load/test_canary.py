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
# Of one capture. Each version's first answers are computed, and a lookup that takes longer than its 10 ms counts as a
# miss: this closed loop fills both cores of a small cluster, so Redis has to wait for one now and then.
LEAST_HITS = 0.95


@pytest.fixture(autouse=True)
def settled(service: Service) -> Iterator[None]:
    """Each test starts from one revision with the reference model."""
    yield
    service.settle()


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
@pytest.mark.parametrize("cache", [False, True], ids=["computed", "cached"])
def test_ten_percent_are_ten_percent(
    service: Service, record_property: Callable[[str, object], None], *, cache: bool
) -> None:
    """Of 10,000 requests 10 ± 1 points go to the canary: more than three standard deviations of a fair draw."""
    service.roll_out("better", percent=10)
    service.cluster.wait_until(service.newest_is_live, 60, "the canary is live")
    time.sleep(2.0)
    digests, hits = asyncio.run(_many(service, REQUESTS, cache=cache))
    share = digests[service.digests["better"]] / REQUESTS
    record_property("share of the canary", f"{share:.4f}, {hits} answers from the cache")
    assert sum(digests.values()) == REQUESTS
    assert hits > LEAST_HITS * REQUESTS if cache else not hits
    assert share == pytest.approx(0.10, abs=0.01)


async def _many(service: Service, count: int, *, cache: bool) -> tuple[Counter[str], int]:
    """Digests of the models that answered, and how often the cache did; a closed loop over a few connections."""
    body, headers = service.encoded(cache=cache)
    digests: Counter[str] = Counter()
    hits = 0
    left = iter(range(count))

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal hits
        for _ in left:
            async with session.post(
                service.ingress + "/v2/models/localization/infer", data=body, headers=headers
            ) as got:
                answer = await got.read()
                assert got.status == 200, answer[:300]
            digests.update(digest for digest in service.digests.values() if digest.encode() in answer)
            hits += b'"cached":"[true]"' in answer

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30.0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(CONNECTIONS)))
    return digests, hits


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_promotion_and_rollback_lose_nothing(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """Start, promote, roll back at 30 requests/s: none fails, and a version that the status shows gone is gone."""
    better, reference, bad = (service.digests[name] for name in ("better", "reference", "overconfident"))
    applied_s: dict[str, float] = {}

    def roll_out(step: str, variant: str, percent: int, stay_s: float) -> float:
        """Apply, wait until the status says that it is so, stay; when it was so."""
        applied_s[step] = time.monotonic()
        service.roll_out(variant, percent=percent)
        service.cluster.wait_until(service.newest_is_live, 60, step)
        live_s = time.monotonic()
        time.sleep(stay_s)
        return live_s

    with load() as sent:
        roll_out("the canary starts", "better", 10, 5.0)
        promoted_s = roll_out("promotion", "better", 100, 8.0)
        roll_out("the next canary starts", "overconfident", 50, 5.0)
        back_s = roll_out("rollback", "overconfident", 0, 8.0)
    first_s = min(one.end_s for one in sent.sent if one.digest == better) - applied_s["the canary starts"]
    last_old_s = max(one.end_s for one in sent.sent if one.digest == reference) - applied_s["promotion"]
    last_bad_s = max(one.end_s for one in sent.sent if one.digest == bad) - applied_s["rollback"]
    record_property("promotion and rollback", sent.summary())
    record_property(
        "seconds after apply",
        f"first canary answer {first_s:.1f}, last old answer after promotion {last_old_s:.1f}, last bad answer after"
        f" rollback {last_bad_s:.1f}",
    )
    assert not sent.failed
    assert {one.digest for one in sent.sent} == {reference, better, bad}
    assert {one.digest for one in sent.sent if one.start_s > promoted_s} <= {better, bad}
    assert {one.digest for one in sent.sent if one.start_s > back_s} == {better}


def test_another_transformer_takes_over_without_an_error(
    service: Service, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """A changed template of the transformer, without a percentage: the new pods take over, no request fails."""
    before = _transformers(service)
    with load() as sent:
        service.set_predictor({}, transformer={"annotations": {"heimdall.io/e2e": "another"}})
        _wait_for_others(service, before)
        time.sleep(8.0)
    record_property("another transformer", sent.summary())
    before = _transformers(service)
    service.set_predictor({})
    _wait_for_others(service, before)
    assert not sent.failed


def _transformers(service: Service) -> set[str]:
    return {pod["metadata"]["name"] for pod in service.pods("transformer")}


def _wait_for_others(service: Service, before: set[str]) -> None:
    def replaced() -> bool:
        now = _transformers(service)
        return bool(now) and now.isdisjoint(before) and service.ready()

    service.cluster.wait_until(replaced, 120, "other transformers are ready")
