from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rollout.preflight_job import Plan, job

if TYPE_CHECKING:
    from rollout.release import ModelVersion

PLAN = Plan("loc-preflight", "radio", "heimdall/rollout:1", ("probe",), (), 900)


@pytest.fixture
def template() -> dict[str, Any]:
    """A revision template of a predictor that has a volume."""
    container = {"name": "kserve-container", "volumeMounts": [{"name": "models", "mountPath": "/models"}]}
    spec = {"containers": [container], "volumes": [{"name": "models", "emptyDir": {}}]}
    return {"metadata": {"annotations": {}}, "spec": spec}


def test_the_download_container_is_the_one_that_the_service_names(
    template: dict[str, Any], challenger: ModelVersion
) -> None:
    """KServe's webhook finds `storageContainerName` in an annotation of the template, which the Job's pod has too."""
    name = "internal.serving.kserve.io/storage-container-name"
    template["metadata"]["annotations"] = {name: "radio-loc", "prometheus.io/scrape": "true"}
    annotations = job(PLAN, challenger, template, template)["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        name: "radio-loc",
        "internal.serving.kserve.io/storage-initializer-sourceuri": challenger.storage_uri,
    }


def test_the_probe_can_write_to_tmp_alone(template: dict[str, Any], challenger: ModelVersion) -> None:
    """Its file system is read-only, and libraries make caches; the template's own volumes stay."""
    pod = job(PLAN, challenger, template, template)["spec"]["template"]["spec"]
    predictor, _, probe = pod["containers"]
    assert probe["securityContext"]["readOnlyRootFilesystem"]
    (mount,) = probe["volumeMounts"]
    assert mount["mountPath"] == "/tmp"  # noqa: S108 - the container's own
    assert [one["name"] for one in pod["volumes"]] == ["models", mount["name"]]
    assert "emptyDir" in pod["volumes"][1]
    assert [one["name"] for one in predictor["volumeMounts"]] == ["models"]
