"""Out, back, to zero and from zero."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
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
    if not service.collocated:
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


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_a_burst_scales_out_and_back(service: Service, record_property: Callable[[str, object], None]) -> None:
    """100 connections bring more predictors, no request fails, and afterwards one predictor is left."""
    service.set_predictor({"maxReplicas": 4, "scaleTarget": 1, "annotations": WINDOW})
    service.cluster.wait_until(service.newest_is_live, 60, "the fields are live")
    answers, most, ready_s = asyncio.run(_burst(service, connections=100, seconds=25.0))
    p50, p99 = np.percentile([seconds for _, seconds in answers], [50, 99])
    ready = ", ".join(f"{count} ready after {seconds:.1f} s" for count, seconds in enumerate(ready_s, 2))
    assert {status for status, _ in answers} == {200}
    assert most >= 2
    back_s = service.cluster.wait_until(lambda: len(service.pods("predictor")) == 1, 120, "one predictor is left")
    record_property(
        "burst",
        f"{len(answers)} requests, p50 {p50:.2f} s, p99 {p99:.2f} s; {most} predictors at most; {ready};"
        f" one again {back_s:.1f} s after its end",
    )


async def _burst(
    service: Service, connections: int, seconds: float
) -> tuple[list[tuple[int, float]], int, list[float]]:
    """Closed loop; status and seconds of every request, most predictors, and when the second and later were ready."""
    body, headers = service.encoded()
    answers: list[tuple[int, float]] = []
    ready_s: list[float] = []
    begin_s = time.monotonic()
    end_s = begin_s + seconds
    most = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        while (asked_s := time.monotonic()) < end_s:
            async with session.post(service.ingress + INFER, data=body, headers=headers) as response:
                await response.read()
            answers.append((response.status, time.monotonic() - asked_s))

    async def count() -> None:
        nonlocal most
        while time.monotonic() < end_s:
            pods = await asyncio.to_thread(service.pods, "predictor")
            most = max(most, len(pods))
            while len(ready_s) < sum(_is_ready(pod) for pod in pods) - 1:
                ready_s.append(time.monotonic() - begin_s)
            await asyncio.sleep(0.5)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60.0), connector=connector) as session:
        await asyncio.gather(count(), *(worker(session) for _ in range(connections)))
    return answers, most, ready_s


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
def test_the_first_answer_after_zero(service: Service, record_property: Callable[[str, object], None]) -> None:
    """A predictor at zero pods starts for the first request, and that is answered."""
    _ask_from_zero(service, ["predictor"], record_property)


def test_the_first_answer_after_both_were_at_zero(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    """The transformer starts for the request, and the predictor for the transformer's."""
    _ask_from_zero(service, ["predictor", "transformer"], record_property)


def _ask_from_zero(service: Service, at_zero: list[str], record_property: Callable[[str, object], None]) -> None:
    both = "transformer" in at_zero
    fields = {"minReplicas": 0, "annotations": WINDOW}
    service.set_predictor(fields, transformer=fields if both else None)
    if not service.collocated:
        set_readiness(service, follows_predictor=False)
    service.cluster.wait_until(service.newest_is_live, 60, "the fields are live")
    selector = f"serving.kserve.io/inferenceservice=localization,component in ({','.join(at_zero)})"
    gone_s = service.cluster.wait_until(lambda: not service.cluster.find("Pod", selector), 180, "no pod is left")
    asked_at, started_s = time.time(), time.monotonic()
    body, headers = service.encoded()
    status, answer, _ = service.post(INFER, body, **headers)
    answered_s = time.monotonic() - started_s
    assert status == 200, answer[:300]
    parts = "; ".join(f"{component}: {_parts(service, component, asked_at)}" for component in at_zero)
    record_property(
        f"first answer after zero, {' and '.join(at_zero)}", f"{answered_s:.2f} s; {parts}; to zero in {gone_s:.0f} s"
    )
    assert answered_s < 15.0


_LOGGED = re.compile(r'.*"message":"(?P<what>imported|serving), (?P<age_s>[0-9.]+) s after')


def _parts(service: Service, component: str, asked_at: float) -> str:
    """When each step of the start of a component's pod was done, in seconds after the request."""
    (pod,) = service.pods(component)
    name = pod["metadata"]["name"]
    # The answer is there before the kubelet has told the API server that the pod runs, and it has no logs until then.
    service.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    words = ["logs", name, "--timestamps", "--container"]
    told = {one["type"]: one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["status"] == "True"}
    times = {"pod scheduled (whole seconds)": datetime.fromisoformat(told["PodScheduled"]).timestamp()}
    if "initContainerStatuses" in pod["status"]:
        times["model downloaded"] = _seconds(service.cluster.kubectl(*words, "storage-initializer"))
    for line in service.cluster.kubectl(*words, "kserve-container").splitlines():
        if found := _LOGGED.match(line):
            times.setdefault("process started", _seconds(line) - float(found["age_s"]))
            times[found["what"]] = _seconds(line)
        elif " is loaded" in line:
            times["model loaded"] = _seconds(line)
    return ", ".join(f"{what} {at - asked_at:.2f} s" for what, at in sorted(times.items(), key=lambda one: one[1]))


def _seconds(line: str) -> float:
    """Seconds since 1970 of the time at the beginning of a line of `kubectl logs --timestamps`."""
    return datetime.fromisoformat(line.split(" ", maxsplit=1)[0]).timestamp()
