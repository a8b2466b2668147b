"""`protocol: grpc`: a client of the Open Inference Protocol's gRPC half, through Knative's ingress."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton

from reference.estimates import LocalModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

INFER = "/v2/models/localization/infer"
PORT = "h2c"
"""What Knative calls a port that speaks HTTP/2 without TLS."""


@pytest.fixture
def grpc_service(helm_program: str, service: Service) -> Iterator[Service]:
    """The quickstart rendered with `protocol: grpc`, applied over it; afterwards the quickstart as it was."""
    root = service.manifest.parent.parent
    command = [helm_program, "template", "localization", str(root / "charts" / "heimdall"), "--namespace", "heimdall"]
    command += [
        "--values",
        str(root / "charts" / "values" / "quickstart.yaml"),
        "--set",
        "protocol=grpc",
        "--kube-version",
        "1.34",
    ]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    _apply(service, rendered)
    service.cluster.wait_until(lambda: _port(service) == PORT, 120, "the service speaks gRPC")
    yield service
    _apply(service, service.manifest.read_text())
    service.cluster.wait_until(lambda: _port(service) != PORT, 120, "the service speaks HTTP again")
    # The ingress follows a moment after the status, and until then sends HTTP to the gRPC port: 502.
    body, headers = service.encoded()
    service.cluster.wait_until(lambda: service.post(INFER, body, **headers)[0] == 200, 30, "the ingress has the route")


def _apply(service: Service, manifest: str) -> None:
    command = ["kubectl", "apply", "--server-side", "--force-conflicts", "--filename", "-"]
    subprocess.run(command, input=manifest, capture_output=True, text=True, timeout=120, check=True)
    assert service.spec()


def _port(service: Service) -> str | None:
    """The name of the port of the transformer's only revision with traffic, once its pods are ready."""
    knative = service.cluster.get("KnativeService", "localization-transformer")
    (target, *others) = [one for one in knative["status"]["traffic"] if one.get("percent")]
    if others or not service.ready() or target["revisionName"] != knative["status"]["latestCreatedRevisionName"]:
        return None
    (container,) = knative["spec"]["template"]["spec"]["containers"]
    name: str | None = container["ports"][0].get("name", "")
    return name


def _is_reached(client: triton.InferenceServerClient) -> bool:
    """Whether the server answers; the ingress learns of a revision's new port a moment after the status shows it."""
    try:
        return bool(client.is_server_ready(client_timeout=30.0))
    except triton.InferenceServerException:
        return False


def test_a_grpc_client_gets_the_answer(grpc_service: Service, record_property: Callable[[str, object], None]) -> None:
    """tritonclient, over h2c through the ingress, gets what ONNX Runtime computes here; errors are gRPC's own."""
    ingress = urlsplit(grpc_service.ingress)
    options = [("grpc.default_authority", grpc_service.host)]
    with triton.InferenceServerClient(f"{ingress.hostname}:{ingress.port or 80}", channel_args=options) as client:
        grpc_service.cluster.wait_until(lambda: _is_reached(client), 30, "the ingress has the new route")
        assert client.is_model_ready("localization", client_timeout=30.0)
        samples = grpc_service.captures.iq
        parts = triton.InferInput("iq", list(samples.shape), "FP32")
        parts.set_data_from_numpy(samples)
        answer = client.infer("localization", [parts], client_timeout=30.0)
        expected = LocalModel(grpc_service.models["reference"] / "model.onnx").estimate(grpc_service.captures)
        np.testing.assert_allclose(answer.as_numpy("position"), expected.position_deg, atol=2e-4)
        np.testing.assert_allclose(answer.as_numpy("confidence"), expected.confidence, atol=2e-3)
        with pytest.raises(triton.InferenceServerException) as refused:
            client.infer("nobody", [parts], client_timeout=30.0)
    record_property("gRPC", f"{len(samples)} captures; unknown model: {refused.value.status()}")
    assert str(grpc.StatusCode.NOT_FOUND) in str(refused.value.status())
