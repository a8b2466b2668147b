"""A real cluster and the service of a manifest on it; a wait that fails shows events and logs.

KUBECONFIG and INGRESS_URL name the cluster; without them the tests are skipped, or fail where CI=true.
HEIMDALL_IMAGE_LOADER, if set, is a command with {tag} and {dockerfile} that builds an image and brings it to the nodes.
HEIMDALL_E2E_KEEP=1 leaves the service there and uses it again the next time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml
from kubernetes.config import new_client_from_config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, InferResponse, Tensor
from reference.simulate import captures
from reference.variants import NAMES, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from reference.simulate import Captures

JSON_SIZE = "Inference-Header-Content-Length"
INFER = "/v2/models/localization/infer"
NAME, NAMESPACE, BUCKET = "localization", "heimdall", "s3://heimdall-models"
API_VERSIONS = {
    "InferenceService": "serving.kserve.io/v1beta1",
    "KnativeService": "serving.knative.dev/v1",
    "Job": "batch/v1",
}
SOURCE_ANNOTATION = "internal.serving.kserve.io/storage-initializer-sourceuri"
ROLLOUT_MANAGER, TESTS_MANAGER = "heimdall-rollout", "heimdall-e2e"
_CALL_S = 30.0
_KUBECTL_S = 120.0


class Cluster:
    """The cluster of KUBECONFIG: `kubectl` for what users do with it, the API for what programs do."""

    def __init__(self) -> None:
        self._api = DynamicClient(new_client_from_config())

    def kubectl(self, *words: str, check: bool = True) -> str:
        """What kubectl prints."""
        command = ["kubectl", "--namespace", NAMESPACE, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_KUBECTL_S, check=False)
        if check and done.returncode:
            pytest.fail(f"{shlex.join(command)}: {done.stderr}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str | None = NAMESPACE) -> Any:  # noqa: ANN401 - the object as JSON
        """An object, or None."""
        try:
            return self._resource(kind).get(name=name, namespace=namespace, _request_timeout=_CALL_S).to_dict()
        except NotFoundError:
            return None

    def find(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """The objects that a label selector finds."""
        found = self._resource(kind).get(namespace=NAMESPACE, label_selector=selector, _request_timeout=_CALL_S)
        items: list[dict[str, Any]] = found.to_dict()["items"]
        return items

    def apply(self, *objects: dict[str, Any], manager: str = TESTS_MANAGER, namespace: str = NAMESPACE) -> None:
        """Server-side apply of exactly these fields.

        Not by kubectl: that hands a manager every field which a plain `kubectl apply` set before, and then removes
        those that are not in the new document.
        """
        for one in objects:
            self._resource(one["kind"]).server_side_apply(
                body=one, namespace=namespace, field_manager=manager, force_conflicts=True, _request_timeout=_CALL_S
            )

    def _resource(self, kind: str) -> Any:  # noqa: ANN401 - kubernetes is not typed
        return self._api.resources.get(kind=kind.removeprefix("Knative"), api_version=API_VERSIONS.get(kind, "v1"))

    def wait_until(self, predicate: Callable[[], Any], deadline_s: float, what: str) -> float:
        """Poll until it is true; the seconds it took. Past the deadline the test fails with what the cluster says."""
        started_s = time.monotonic()
        while not predicate():
            if time.monotonic() - started_s > deadline_s:
                pytest.fail(f"not within {deadline_s:.0f} s: {what}\n{self.explain()}")
            time.sleep(0.2)
        return time.monotonic() - started_s

    def load_image(self, component: str, root: Path) -> None:
        """Build a component's image and bring it to the nodes, if HEIMDALL_IMAGE_LOADER says how.

        A second time if that failed: containerd collects layers that nobody uses, also while an import counts on them.
        """
        if "HEIMDALL_IMAGE_LOADER" not in os.environ:
            return
        tag = f"docker.io/heimdall/{component}:{_app_version(root)}"
        command = os.environ["HEIMDALL_IMAGE_LOADER"].format(tag=tag, dockerfile=f"{component}/Dockerfile")
        load = partial(subprocess.run, shlex.split(command), cwd=root, timeout=900)
        if load(check=False).returncode:
            load(check=True)

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


@dataclass
class Service:
    """The InferenceService of a manifest, seen from outside the cluster.

    Attributes:
        digests: Name of each variant of the reference model → digest of its file.
    """

    cluster: Cluster
    ingress: str
    captures: Captures
    manifest: Path
    models: dict[str, Path]
    digests: dict[str, str]
    host: str = ""

    @property
    def collocated(self) -> bool:
        """Whether transformer and predictor are in one pod."""
        return self.manifest.stem == "collocated"

    def encoded(self, *, cache: bool = False) -> tuple[bytes, dict[str, str]]:
        """One capture as a V2 request with binary tensors, and its headers."""
        request = InferRequest(
            inputs=(Tensor("iq", self.captures.iq[:1]),), parameters={"cache": cache}, binary_output=True
        )
        encoded = encode_request(request, binary=True)
        return encoded.body, {"Host": self.host, JSON_SIZE: str(encoded.json_size)}

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
        """One request to the service; status, body and headers."""
        return asyncio.run(self._post(path, body, headers))

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CALL_S)) as session,
            session.post(self.ingress + path, data=io.BytesIO(body), headers={"Host": self.host} | headers) as response,
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
        return self.cluster.get("InferenceService", NAME)

    def ready(self) -> bool:
        """Whether the service's own status says so."""
        conditions = (self.spec() or {}).get("status", {}).get("conditions", [])
        return {one["type"]: one["status"] for one in conditions}.get("Ready") == "True"

    def traffic(self) -> dict[str, int]:
        """Revision of the predictor → percentage, also those that get nothing."""
        shares: Counter[str] = Counter()
        for target in self.spec()["status"]["components"]["predictor"].get("traffic", []):
            shares[target["revisionName"]] += target.get("percent", 0)
        return dict(shares)

    def newest_is_live(self) -> bool:
        """Whether what was last rolled out has arrived at Knative, is ready, and is routed to as the percentage says.

        KServe's own observedGeneration stays 1 for ever, so the Knative service is asked whether it has the model, and
        whether its newest revision is made of it already.
        """
        wanted, knative = self.spec()["spec"]["predictor"], self.cluster.get("KnativeService", f"{NAME}-predictor")
        template = knative["spec"]["template"]["metadata"]["annotations"]
        newest = knative["status"].get("latestCreatedRevisionName")
        conditions = {one["type"]: one["status"] for one in knative["status"].get("conditions", [])}
        asked = {
            SOURCE_ANNOTATION: wanted["model"]["storageUri"],
            "autoscaling.knative.dev/min-scale": str(wanted.get("minReplicas", 1)),
            "autoscaling.knative.dev/window": wanted.get("annotations", {}).get("autoscaling.knative.dev/window"),
        }
        return (
            all(template.get(name) == value for name, value in asked.items())
            and knative["metadata"]["generation"] == knative["status"]["observedGeneration"]
            and conditions.get("ConfigurationsReady") == "True"
            and newest == knative["status"].get("latestReadyRevisionName")
            and self.traffic().get(newest) == wanted.get("canaryTrafficPercent", 100)
            and self.ready()
        )

    def roll_out(self, variant: str, percent: int | None = None, **predictor: Any) -> None:  # noqa: ANN401 - spec fields
        """Set model and percentage as a rollout does: server-side apply of exactly the fields that it owns."""
        digest = self.digests.get(variant, "")
        env = [{"name": "HEIMDALL_MODEL_VERSION", "value": "1"}, {"name": "HEIMDALL_MODEL_DIGEST", "value": digest}]
        fields = {"model": {"storageUri": f"{BUCKET}/{variant}/model.onnx", "env": env}}
        share = {} if percent is None else {"canaryTrafficPercent": percent}
        self._apply({"predictor": fields | share | predictor}, ROLLOUT_MANAGER)

    def set_predictor(self, fields: dict[str, Any], transformer: dict[str, Any] | None = None) -> None:
        """Set fields that no rollout owns; those of an earlier call that this one leaves out go."""
        predictor = {"serviceAccountName": f"{NAME}-predictor"} | fields
        self._apply({"predictor": predictor} | ({"transformer": transformer} if transformer else {}), TESTS_MANAGER)

    def _apply(self, spec: dict[str, Any], manager: str) -> None:
        body = {"apiVersion": API_VERSIONS["InferenceService"], "kind": "InferenceService", "metadata": {"name": NAME}}
        self.cluster.apply(body | {"spec": spec}, manager=manager)

    def settle(self, variant: str = "reference") -> None:
        """Back to one revision that serves `variant`: the good template at 0 %, ready, and only then all of it."""
        self.roll_out(variant, percent=0)
        self.cluster.wait_until(self.newest_is_live, 120, "the good revision is ready")
        self.roll_out(variant)
        self.cluster.wait_until(
            lambda: self.newest_is_live() and len(self.traffic()) == 1, 60, "one revision has it all"
        )

    def upload(self) -> None:
        """Run the quickstart's upload job again, and once for each variant, to s3://heimdall-models/VARIANT/model.onnx."""
        job = next(one for one in yaml.safe_load_all(self.manifest.read_text()) if one and one["kind"] == "Job")
        pod = job["spec"]["template"]["spec"]
        one = 'MODEL_URI="$BUCKET/$(basename $model)/model.onnx" python3 /upload/upload.py $model'
        own = " ".join(pod["containers"][0]["command"])
        pod["containers"][0]["command"] = ["sh", "-ec", f"{own}; for model in /models/*; do {one}; done"]
        pod["containers"][0]["env"].append({"name": "BUCKET", "value": BUCKET})
        pod["containers"][0]["volumeMounts"].append({"name": "models", "mountPath": "/models"})
        pod["volumes"].append({"name": "models", "configMap": {"name": "e2e-models"}})
        job["metadata"]["name"] = "e2e-upload"
        files = {name: (folder / "model.onnx").read_bytes() for name, folder in self.models.items()}
        content = {name: base64.b64encode(model).decode() for name, model in files.items()}
        models = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "e2e-models"}, "binaryData": content}
        self.cluster.kubectl("delete", "job/e2e-upload", "--ignore-not-found", "--wait")
        self.cluster.apply(models, job)
        self.cluster.kubectl("wait", "--for=condition=complete", "job/e2e-upload", "--timeout=90s")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of a component's newest ready revision that are not on their way out.

        An earlier revision's pods stay for a minute or more after they lost their traffic; killing one proves nothing.
        """
        knative = self.cluster.get("KnativeService", f"{NAME}-{component}")
        if knative is None:
            return []
        revision = knative["status"]["latestReadyRevisionName"]
        found = self.cluster.find("Pod", f"serving.knative.dev/revision={revision}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The cluster, with the images of this tree on it if HEIMDALL_IMAGE_LOADER says how."""
    if missing := [name for name in ("KUBECONFIG", "INGRESS_URL") if not os.environ.get(name)]:
        _unavailable(f"no cluster: {' and '.join(missing)} not set")
    if not shutil.which("kubectl"):
        _unavailable("kubectl is not on the PATH")
    if "PYTEST_XDIST_WORKER" in os.environ:
        _unavailable("there is one cluster: run these tests with -n 0")
    found = Cluster()
    for component in ("predictor", "transformer"):
        found.load_image(component, pytestconfig.rootpath)
    return found


@pytest.fixture(scope="session")
def helm_program() -> str:
    """Where helm is; not all of these tests need it."""
    found = shutil.which("helm")
    if found is None:
        _unavailable("helm is not on the PATH")
    return found


def _app_version(root: Path) -> str:
    chart = yaml.safe_load((root / "charts" / "heimdall" / "Chart.yaml").read_text())
    return str(chart["appVersion"])


@pytest.fixture(scope="session", params=["quickstart"])
def service(cluster: Cluster, pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Service]:
    """`kubectl apply -f manifests/NAME.yaml`, all variants of the reference model beside it; gone at the end.

    A test that is parametrized with both names runs on the quickstart and again on the collocated service.
    """
    manifest = pytestconfig.rootpath / "manifests" / f"{request.param}.yaml"
    keep = os.environ.get("HEIMDALL_E2E_KEEP") == "1"
    if not keep and cluster.get("Namespace", NAMESPACE, namespace=None):
        pytest.fail(f"the namespace {NAMESPACE} is in use: these tests make it and delete it")
    models = prepare(pytestconfig.rootpath / "build" / "reference", NAMES)
    files = {name: (folder / "model.onnx").read_bytes() for name, folder in models.items()}
    digests = {name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in files.items()}
    found = Service(cluster, os.environ["INGRESS_URL"].rstrip("/"), captures(31, 8), manifest, models, digests)
    try:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(manifest))
        cluster.wait_until(found.ready, 240, f"the {request.param} is ready")
        found.host = urlsplit(found.spec()["status"]["url"]).netloc
        found.upload()
        yield found
    finally:
        if not keep:
            cluster.kubectl("delete", "--ignore-not-found", "--wait", "-f", str(manifest), check=False)
            cluster.wait_until(lambda: not cluster.get("Namespace", NAMESPACE, namespace=None), 180, "nothing is left")
