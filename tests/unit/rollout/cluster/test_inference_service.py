from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rollout.errors import RefusedError
from rollout.inference_service import observed

if TYPE_CHECKING:
    from conftest import FakeCluster

    from rollout.inference_service import InferenceService
    from rollout.release import ModelVersion

ISVC = "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices/loc"


def test_exactly_the_fields_of_a_rollout_are_set(
    cluster: FakeCluster, service: InferenceService, challenger: ModelVersion
) -> None:
    """Model, version, digest and percentage, always all of them, and nothing else."""
    before = cluster.objects[ISVC]["spec"]
    service.apply(challenger, 5)
    after = cluster.objects[ISVC]["spec"]
    assert after["transformer"] == before["transformer"]
    assert after["predictor"] == {
        "canaryTrafficPercent": 5,
        "model": {
            "storageUri": "s3://models/next",
            "env": [
                {"name": "HEIMDALL_MODEL_VERSION", "value": "2"},
                {"name": "HEIMDALL_MODEL_DIGEST", "value": challenger.model_digest},
            ],
        },
    }


def test_a_canary_is_live_only_when_it_is_routed_to(
    cluster: FakeCluster, service: InferenceService, challenger: ModelVersion, good: ModelVersion
) -> None:
    """While it starts, the traffic names the old revision twice, at the percentage that was asked for."""
    cluster.slow[challenger.storage_uri] = 3
    service.apply(challenger, 10)
    starting = service.observe()
    assert starting.traffic == (("loc-predictor-00001", 100),)
    assert (starting.arrived, starting.live, starting.names(challenger)) == (True, False, True)
    for _ in range(3):
        seen = service.observe()
    assert seen.live
    assert not seen.settled
    assert (seen.share(seen.newest), seen.share(seen.rolled_out), seen.share("unknown")) == (10, 90, 0)
    assert not seen.names(good)


def test_a_template_that_has_not_arrived_is_not_live(service: InferenceService, cluster: FakeCluster) -> None:
    """The old revision is ready and has everything, but it is not what the service names."""
    document = service.document()
    knative = cluster.get("/apis/serving.knative.dev/v1/namespaces/radio/services/loc-predictor") or {}
    assert observed(document, knative, []).settled
    document["spec"]["predictor"]["model"]["storageUri"] = "s3://models/other"
    assert not observed(document, knative, []).live
    document = service.document()
    document["spec"]["predictor"]["model"]["env"][1]["value"] = "sha256:other"
    assert not observed(document, knative, []).live
    knative["status"]["conditions"] = [{"type": "ConfigurationsReady", "status": "Unknown", "reason": "OutOfDate"}]
    assert not observed(service.document(), knative, []).arrived
    knative["status"]["conditions"] = []
    assert observed(service.document(), knative, []).arrived
    knative["status"]["observedGeneration"] = 0
    assert not observed(service.document(), knative, []).arrived
    assert not observed(service.document(), {}, []).started


def test_conditions_are_complaints(service: InferenceService) -> None:
    """What the service says of itself is kept for the reason of a rollback."""
    document = service.document()
    document["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": "timed out\n"}]
    assert observed(document, {}, []).complaint == "timed out"
    document["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": "x" * 30_000}]
    assert observed(document, {}, []).complaint == "x" * 500, "it has to fit into the release's record, several times"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": {"deploymentMode": "Standard"}}, "Standard mode, where KServe ignores"),
        ({"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}}}, "RawDeployment mode"),
        ({"spec": {"predictor": {}}}, r"no spec\.predictor\.model"),
    ],
)
def test_what_cannot_be_released_to(
    cluster: FakeCluster, service: InferenceService, change: dict[str, Any], message: str
) -> None:
    """Raw mode ignores the percentage: it is refused before anything is set."""
    cluster.objects[ISVC] |= change
    cluster.get = cluster.objects.get  # type: ignore[method-assign,misc,assignment]  # as it is
    with pytest.raises(RefusedError, match=message):
        service.document()


def test_a_service_that_is_not_there(cluster: FakeCluster, service: InferenceService) -> None:
    """Is installed by the chart, not by a release."""
    del cluster.objects[ISVC]
    with pytest.raises(RefusedError, match="there is no InferenceService radio/loc"):
        service.observe()


def test_addresses_and_templates(cluster: FakeCluster, service: InferenceService) -> None:
    """For the probe, from inside and from outside, and for the pre-flight Job."""
    assert (service.address(), service.url()) == ("http://loc.radio.svc", "http://loc.radio.example.com")
    predictor, transformer = service.templates()
    assert predictor["spec"]["serviceAccountName"] == "loc-predictor"
    assert transformer is not None
    cluster.objects.pop("/apis/serving.knative.dev/v1/namespaces/radio/services/loc-predictor")
    with pytest.raises(RefusedError, match="no Knative service"):
        service.templates()


def test_an_event_is_short_enough_and_names_its_service(cluster: FakeCluster, service: InferenceService) -> None:
    """The API server refuses messages of more than 1,024 characters."""
    service.tell("Canary", "x" * 5_000, warning=True)
    event = next(one for path, one in cluster.objects.items() if "/events/" in path)
    assert len(event["message"]) == 1_024
    assert (event["type"], event["involvedObject"]["uid"]) == ("Warning", "u")
