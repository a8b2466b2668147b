"""Out, back, to zero and from zero."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(600)]

INFER = "/v2/models/localization/infer"
WINDOW = {"autoscaling.knative.dev/window": "10s"}
"""Knative's smallest window, so that the tests need not wait for its 60 s."""


@pytest.fixture(autouse=True)
def settled(service: Service) -> Iterator[None]:
    """What the tests set is taken back."""
    yield
    set_readiness(service, follows_predictor=True)
    service.set_predictor({})
    service.cluster.wait_until(service.newest_is_live, 120, "the fields are given back")


def set_readiness(service: Service, *, follows_predictor: bool) -> None:
    """What the chart sets with predictor.minReplicas: a transformer that asks for it keeps a predictor awake."""
    env = service.spec()["spec"]["transformer"]["containers"][0]["env"]
    index = [one["name"] for one in env].index("HEIMDALL_PREDICTOR_READINESS")
    path = f"/spec/transformer/containers/0/env/{index}/value"
    patch = json.dumps([{"op": "replace", "path": path, "value": str(follows_predictor).lower()}])
    service.cluster.kubectl("patch", "inferenceservice/localization", "--type=json", f"--patch={patch}")
    service.cluster.wait_until(
        lambda: len(service.pods("transformer")) == 1 and service.ready(), 120, "one transformer"
    )


def test_a_burst_scales_out_and_back(service: Service, record_property: Callable[[str, object], None]) -> None:
    """100 connections bring more predictors, no request fails, and afterwards one predictor is left."""
    service.set_predictor({"maxReplicas": 4, "scaleTarget": 1, "annotations": WINDOW})
    service.cluster.wait_until(service.newest_is_live, 60, "the fields are live")
    statuses, most = asyncio.run(_burst(service, connections=100, seconds=25.0))
    record_property("burst", f"{len(statuses)} requests, {most} predictors at most")
    assert set(statuses) == {200}
    assert most >= 2
    service.cluster.wait_until(lambda: len(service.pods("predictor")) == 1, 120, "one predictor is left")


async def _burst(service: Service, connections: int, seconds: float) -> tuple[list[int], int]:
    """Closed loop; the status of every request, and the most predictors that were there at once."""
    body, headers = service.encoded()
    statuses: list[int] = []
    end_s = time.monotonic() + seconds
    most = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end_s:
            async with session.post(service.ingress + INFER, data=body, headers=headers) as response:
                await response.read()
            statuses.append(response.status)

    async def count() -> None:
        nonlocal most
        while time.monotonic() < end_s:
            most = max(most, len(await asyncio.to_thread(service.pods, "predictor")))
            await asyncio.sleep(1.0)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60.0), connector=connector) as session:
        await asyncio.gather(count(), *(worker(session) for _ in range(connections)))
    return statuses, most


def test_the_first_answer_after_zero(service: Service, record_property: Callable[[str, object], None]) -> None:
    """A predictor at zero pods starts for the first request, and that is answered."""
    service.set_predictor({"minReplicas": 0, "annotations": WINDOW})
    set_readiness(service, follows_predictor=False)
    service.cluster.wait_until(service.newest_is_live, 60, "the fields are live")
    selector = "serving.kserve.io/inferenceservice=localization,component=predictor"
    service.cluster.wait_until(lambda: not service.cluster.find("Pod", selector), 180, "no predictor is left")
    asked_at, started_s = time.time(), time.monotonic()
    body, headers = service.encoded()
    status, answer, _ = service.post(INFER, body, **headers)
    answered_s = time.monotonic() - started_s
    assert status == 200, answer[:300]
    (pod,) = service.pods("predictor")
    record_property("first answer after zero", f"{answered_s:.2f} s; {_parts(pod, asked_at)}")
    assert answered_s < 15.0


def _parts(pod: dict[str, Any], asked_at: float) -> str:
    """Seconds after the request; Kubernetes's own times are whole seconds."""
    status = pod["status"]
    (download,) = [one["state"]["terminated"] for one in status["initContainerStatuses"]]
    (process,) = [one["state"]["running"] for one in status["containerStatuses"] if one["name"] == "kserve-container"]
    times = {
        "pod": pod["metadata"]["creationTimestamp"],
        "download starts": download["startedAt"],
        "download ends": download["finishedAt"],
        "process starts": process["startedAt"],
        "ready": next(one["lastTransitionTime"] for one in status["conditions"] if one["type"] == "Ready"),
    }
    return ", ".join(f"{name} {datetime.fromisoformat(at).timestamp() - asked_at:.0f} s" for name, at in times.items())
