"""A real cluster, the service of manifests/quickstart.yaml on it, and a constant load; whatever fails shows events and logs.

KUBECONFIG and INGRESS_URL name the cluster; without them the tests are skipped, or fail where CI=true. HEIMDALL_IMAGE_LOADER, if set,
is a command with {tag} and {dockerfile} that builds an image and brings it to the nodes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import numpy as np
import pytest
import yaml

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, InferResponse, Tensor
from reference.simulate import captures
from reference.variants import NAMES, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from reference.simulate import Captures

JSON_SIZE = "Inference-Header-Content-Length"
INFER = "/v2/models/localization/infer"
NAME, NAMESPACE, BUCKET = "localization", "heimdall", "s3://heimdall-models"
ROLLOUT_MANAGER = "heimdall-rollout"
_CALL_S = 30.0
_KUBECTL_S = 120.0


class Cluster:
    """`kubectl` on the cluster of KUBECONFIG."""

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints."""
        command = ["kubectl", "--namespace", NAMESPACE, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_KUBECTL_S, check=False)
        if check and done.returncode:
            pytest.fail(f"{shlex.join(command)}: {done.stderr}")
        return done.stdout

    def get(self, kind: str, name: str = "", selector: str = "") -> Any:  # noqa: ANN401 - whatever the object holds
        """An object, or the objects that a label selector finds."""
        words = ["get", kind, "--output", "json", "--ignore-not-found"]
        words += [name] if name else ["--selector", selector] if selector else []
        found = json.loads(self.kubectl(*words) or "{}")
        return found if name else found.get("items", [])

    def apply(self, *objects: Mapping[str, Any], manager: str = "heimdall-e2e") -> None:
        """Server-side apply under a field manager's name."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-", stdin=document)

    def wait_until(self, predicate: Callable[[], Any], deadline_s: float, what: str) -> float:
        """Poll until it is true; the seconds it took. Past the deadline the test fails with what the cluster says."""
        started_s = time.monotonic()
        while not predicate():
            if time.monotonic() - started_s > deadline_s:
                pytest.fail(f"not within {deadline_s:.0f} s: {what}\n{self.explain()}")
            time.sleep(0.2)
        return time.monotonic() - started_s

    def explain(self) -> str:
        """The state of the service, its pods, the last events and the ends of the logs."""
        parts = [
            self.kubectl("get", "pods,inferenceservices,revisions", "--output=wide", check=False),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-4000:],
        ]
        for component in ("predictor", "transformer"):
            selector = f"--selector=component={component}"
            parts.append(self.kubectl("logs", selector, "--container=kserve-container", "--tail=20", check=False))
        return "\n".join(parts)


class Sent(NamedTuple):
    """One request of a load and what came of it; times are monotonic seconds."""

    start_s: float
    end_s: float
    status: int
    digest: str
    error: str


@dataclass
class Load:
    """An open loop: `rate_hz` requests a second, whether or not earlier ones are answered; no retries by the client."""

    service: Service
    rate_hz: float
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
        body, headers = self.service.encoded
        start_s, status, digest, error = time.monotonic(), 0, "", ""
        try:
            async with session.post(self.service.ingress + INFER, data=body, headers=headers) as response:
                status, answer = response.status, await response.read()
            if status == 200:
                size = response.headers.get(JSON_SIZE)
                digest = str(decode_response(answer, None if size is None else int(size)).parameters["model_digest"])
            else:
                error = answer.decode(errors="replace")[:200]
        except (aiohttp.ClientError, TimeoutError) as failure:
            error = repr(failure)
        self.sent.append(Sent(start_s, time.monotonic(), status, digest, error))

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


@dataclass
class Service:
    """The InferenceService of the quickstart, seen from outside the cluster.

    Attributes:
        digests: Name of each variant of the reference model → digest of its file.
    """

    cluster: Cluster
    ingress: str
    captures: Captures
    models: dict[str, Path]
    digests: dict[str, str]
    host: str = ""

    @property
    def encoded(self) -> tuple[bytes, dict[str, str]]:
        """One capture as a V2 request with binary tensors that bypasses the cache, and its headers."""
        request = InferRequest(
            inputs=(Tensor("iq", self.captures.iq[:1]),), parameters={"cache": False}, binary_output=True
        )
        encoded = encode_request(request, binary=True)
        return encoded.body, {"Host": self.host, JSON_SIZE: str(encoded.json_size)}

    def load(self, rate_hz: float = 30.0) -> Load:
        """A constant load, for use with `with`."""
        return Load(self, rate_hz)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
        """One request to the service; status, body and headers."""
        return asyncio.run(self._post(path, body, headers))

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CALL_S)) as session,
            session.post(self.ingress + path, data=body, headers={"Host": self.host} | headers) as response,
        ):
            return response.status, await response.read(), response.headers

    def infer(self, request: InferRequest, *, binary: bool) -> InferResponse:
        """One V2 request that succeeds."""
        encoded = encode_request(request, binary=binary)
        headers = {} if encoded.json_size is None else {JSON_SIZE: str(encoded.json_size)}
        status, body, given = self.post(INFER, encoded.body, **headers)
        assert status == 200, body[:1000]
        return decode_response(body, int(given[JSON_SIZE]) if JSON_SIZE in given else None)

    def spec(self) -> Any:  # noqa: ANN401 - the InferenceService as JSON
        """The InferenceService as it is now."""
        return self.cluster.get("inferenceservice", NAME)

    def ready(self) -> bool:
        """Whether the controller has seen the last change and calls the service ready."""
        status = self.spec().get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
        return status.get("observedGeneration") == self.spec()["metadata"]["generation"] and conditions["Ready"] == "True"

    def live(self) -> dict[str, int]:
        """Revision of the predictor → percentage, without those that get nothing."""
        predictor = self.spec()["status"]["components"]["predictor"]
        shares: Counter[str] = Counter()
        for target in predictor.get("traffic", []):
            shares[target["revisionName"]] += target.get("percent", 0)
        return {name: percent for name, percent in shares.items() if percent}

    def newest_is_live(self) -> bool:
        """Whether the newest revision is ready and routed, as notes on KServe's status demand: both, not either."""
        predictor = self.spec()["status"]["components"]["predictor"]
        newest = predictor["latestCreatedRevision"]
        routed = {target["revisionName"] for target in predictor.get("traffic", [])}
        return self.ready() and newest == predictor.get("latestReadyRevision") and newest in routed

    def roll_out(self, variant: str, percent: int | None = None, **predictor: Any) -> None:  # noqa: ANN401 - spec fields
        """Set model and percentage as a rollout does: server-side apply of exactly the fields that it owns."""
        digest = self.digests.get(variant, "")
        env = [{"name": "HEIMDALL_MODEL_VERSION", "value": "1"}, {"name": "HEIMDALL_MODEL_DIGEST", "value": digest}]
        fields = {"model": {"storageUri": f"{BUCKET}/{variant}/model.onnx", "env": env, "modelFormat": {"name": "onnx"}}}
        share = {} if percent is None else {"canaryTrafficPercent": percent}
        self.cluster.apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {"predictor": fields | share | predictor},
            },
            manager=ROLLOUT_MANAGER,
        )

    def settle(self, variant: str = "reference") -> None:
        """Back to one revision that serves `variant`: the good template at 0 %, ready, and only then all of it."""
        newest = self.spec()["status"]["components"]["predictor"].get("latestCreatedRevision")
        self.roll_out(variant, percent=0)
        self.cluster.wait_until(lambda: self.newest_is_live() or self.live() == {newest: 100}, 120, "the good revision is ready")
        self.roll_out(variant)
        self.cluster.wait_until(lambda: self.newest_is_live() and len(self.live()) == 1, 60, "one revision has it all")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of a component that are not on their way out."""
        found = self.cluster.get("pods", selector=f"serving.kserve.io/inferenceservice={NAME},component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
