"""`kubectl apply` of the quickstart or the collocated service, and the right answer from outside the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from oip.messages import InferRequest, Tensor
from reference.estimates import LocalModel

if TYPE_CHECKING:
    from conftest import Service

    from reference.estimates import Estimates

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True),
]


@pytest.fixture(scope="module")
def expected(service: Service) -> Estimates:
    """What ONNX Runtime answers in this process."""
    return LocalModel(service.models["reference"] / "model.onnx").estimate(service.captures)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_v2_answers_as_onnxruntime_does_here(service: Service, expected: Estimates, *, binary: bool) -> None:
    """Position, covariance and confidence through ingress, transformer and predictor equal those computed here."""
    request = InferRequest(inputs=(Tensor("iq", service.captures.iq),), binary_output=binary)
    answer = service.infer(request, binary=binary)
    np.testing.assert_allclose(answer.output("position").array, expected.position_deg, atol=2e-4)
    covariance = answer.output("covariance").array
    np.testing.assert_allclose(covariance, expected.covariance_m2, rtol=0.01, atol=1e-3 * covariance.max())
    np.testing.assert_allclose(answer.output("confidence").array, expected.confidence, atol=2e-3)
    assert answer.parameters["model_digest"] == service.digests["reference"]


def test_rest_answers_as_onnxruntime_does_here(service: Service, expected: Estimates) -> None:
    """The front end's API gives the same position."""
    body = orjson.dumps({"iq_data": service.captures.iq[0]}, option=orjson.OPT_SERIALIZE_NUMPY)
    status, answer, _ = service.post("/api/v1/inference/predict", body, **{"Content-Type": "application/json"})
    assert status == 200, answer[:1000]
    position = orjson.loads(answer)["position"]
    np.testing.assert_allclose([position["latitude"], position["longitude"]], expected.position_deg[0], atol=2e-4)


def test_every_pod_passes_pod_security_restricted(service: Service) -> None:
    """The namespace enforces the profile, and nothing of the service had to be excepted from it."""
    labels = service.cluster.get("Namespace", "heimdall", namespace=None)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    containers = [{one["name"] for one in pod["spec"]["containers"]} for pod in service.pods("predictor")]
    ours = {"kserve-container", "transformer-container"} if service.collocated else {"kserve-container"}
    assert containers == [ours | {"queue-proxy"}]
    assert len(service.pods("transformer")) == (0 if service.collocated else 1)
