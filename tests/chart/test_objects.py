"""The objects that the chart makes, against what KServe, Knative and the two processes really accept."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kserve import model_server

import predictor.settings
import transformer.settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Chart

SETTINGS = {"predictor": predictor.settings.Settings, "transformer": transformer.settings.Settings}
MODES = ["separate", "collocated"]
EVERYTHING: dict[str, Any] = {
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "quickstart": {"enabled": True},
    "canary": {"percent": 10},
}


def _containers(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in objects:
        spec = one.get("spec", {})
        yield from spec.get("template", {}).get("spec", {}).get("containers", [])
        yield from spec.get("containers", [])
        yield from [spec["container"]] if "container" in spec else []
        for component in ("predictor", "transformer"):
            yield from spec.get(component, {}).get("containers", [])


def _options(*containers: dict[str, Any]) -> set[str]:
    return {argument.removeprefix("--").partition("=")[0] for one in containers for argument in one["args"]}


def _runtime(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == "ServingRuntime"]
    container: dict[str, Any] = found["spec"]["containers"][0]
    return container


def _service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == "InferenceService"]
    spec: dict[str, Any] = found["spec"]
    return spec


def _transformer(objects: list[dict[str, Any]]) -> dict[str, Any]:
    spec = _service(objects)
    container: dict[str, Any] = (spec.get("transformer") or spec["predictor"])["containers"][0]
    return container


def test_the_manifests_are_what_the_chart_renders(chart: Chart) -> None:
    """manifests/ is never edited: rendering again gives the same files."""
    root = chart.folder.parent.parent
    done = subprocess.run(
        [root / "charts" / "render.sh", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_every_container_passes_pod_security_restricted(chart: Chart, mode: str) -> None:
    """Also those that KServe puts into the pods, of the runtime and of the download."""
    containers = list(_containers(chart.render(**EVERYTHING, mode=mode)))
    assert len(containers) == 6
    for one in containers:
        security = one["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["runAsNonRoot"] is True
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"requests", "limits"} <= set(one["resources"])


@pytest.mark.parametrize("mode", MODES)
def test_every_option_is_one_that_the_processes_take(chart: Chart, mode: str) -> None:
    """A renamed setting would leave the pods with an argument that they refuse, and the service without a pod."""
    objects = chart.render(mode=mode)
    sdk = {action.dest for action in model_server.parser._actions}  # noqa: SLF001 - argparse has no other way
    model = _service(objects)["predictor"]["model"]
    assert _options(_runtime(objects), model) <= sdk | {one.name for one in fields(predictor.settings.Settings)}
    assert _options(_transformer(objects)) <= sdk | {one.name for one in fields(transformer.settings.Settings)}
    given = {one["name"] for one in _transformer(objects).get("env", [])}
    assert given <= set(transformer.settings._ENVIRONMENT.values())  # noqa: SLF001 - the table of the variables


@pytest.mark.parametrize("mode", MODES)
def test_the_options_that_kserve_would_add_are_given(chart: Chart, mode: str) -> None:
    """KServe adds --workers from containerConcurrency and --model_name from the service's name; both would be wrong."""
    objects = chart.render(mode=mode, name="other")
    assert {"--model_name=localization", "--workers=1"} <= set(_transformer(objects)["args"])
    assert "--workers=1" in _runtime(objects)["args"]
    assert "--model_name=localization" in _service(objects)["predictor"]["model"]["args"]


def test_one_container_of_a_collocated_pod_has_the_port_and_the_probes(chart: Chart) -> None:
    """Knative refuses a second port, and probes on a container without one; KServe would accept both and then fail."""
    objects = chart.render(mode="collocated")
    spec = _service(objects)
    behind = {**_runtime(objects), **spec["predictor"]["model"]}
    assert not {"ports", "readinessProbe", "livenessProbe"} & set(behind)
    assert {"ports", "readinessProbe", "livenessProbe"} <= set(_transformer(objects))
    assert "transformer" not in spec
    assert "--predictor_host=localhost:8081" in _transformer(objects)["args"]
    assert "--http_port=8081" in behind["args"]


def test_the_transformer_may_watch_its_own_service_only(chart: Chart) -> None:
    """The role names one object, and reads it; a collocated transformer has one arm and no role at all."""
    (rule,) = chart.one("Role")["rules"]
    assert rule == {
        "apiGroups": ["serving.kserve.io"],
        "resources": ["inferenceservices"],
        "resourceNames": ["loc"],
        "verbs": ["get", "list", "watch"],
    }
    assert not [one for one in chart.render(mode="collocated") if one["kind"] == "Role"]


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_limits_are_nested(chart: Chart, component: str) -> None:
    """Requests wait in front of the pod before the process refuses them; the process gives up before Knative does."""
    settings = SETTINGS[component]
    defaults = {one.name: one.default for one in fields(settings)}
    spec = chart.one("InferenceService")["spec"][component]
    assert spec["scaleTarget"] <= spec["containerConcurrency"] < defaults["max_queue"]
    assert spec["timeout"] > defaults["request_timeout_s"] + defaults["drain_s"]


@pytest.mark.parametrize(("percent", "expected"), [(None, None), (0, 0), (10, 10)])
def test_the_canary_is_left_out_only_when_it_is_null(chart: Chart, percent: int | None, expected: int | None) -> None:
    """0 is a rollback and has to be written: left out, it would be a promotion."""
    predictor_spec = chart.one("InferenceService", canary={"percent": percent})["spec"]["predictor"]
    assert predictor_spec.get("canaryTrafficPercent") == expected


def test_a_predictor_at_zero_is_not_probed(chart: Chart) -> None:
    """Asking for its readiness would keep it awake."""
    variable = {"name": "HEIMDALL_PREDICTOR_READINESS", "value": "false"}
    assert variable in _transformer(chart.render(predictor={"minReplicas": 0}))["env"]
    assert variable not in _transformer(chart.render())["env"]


def test_version_and_digest_reach_the_process(chart: Chart) -> None:
    """They are variables, which server-side apply merges by name, and Kubernetes puts them into the arguments."""
    digest = "sha256:" + "0" * 64
    objects = chart.render(model={"version": "12", "digest": digest})
    env = {one["name"]: one["value"] for one in _service(objects)["predictor"]["model"]["env"]}
    assert env == {"HEIMDALL_MODEL_VERSION": "12", "HEIMDALL_MODEL_DIGEST": digest}
    assert "--model_version=$(HEIMDALL_MODEL_VERSION)" in _runtime(objects)["args"]
    assert "--model_digest=$(HEIMDALL_MODEL_DIGEST)" in _runtime(objects)["args"]


def test_the_arms_of_the_example_canary_have_versions_of_their_own(chart: Chart) -> None:
    """production.yaml is the stable arm, canary-10.yaml the new one; without numbers both would call themselves 1."""
    versions = []
    for name in ("production", "canary-10"):
        manifest = (chart.folder.parent.parent / "manifests" / f"{name}.yaml").read_text()
        model = _service([one for one in yaml.safe_load_all(manifest) if one])["predictor"]["model"]
        versions += [one["value"] for one in model["env"] if one["name"] == "HEIMDALL_MODEL_VERSION"]
        assert model["storageUri"].endswith(f"/{versions[-1]}")
    assert all(versions)
    assert len(set(versions)) == 2


def test_a_release_of_the_chart_alone_makes_no_revision(chart: Chart, tmp_path: Path) -> None:
    """KServe copies labels and annotations to the pods, so none of them may carry the chart's version."""
    copy = tmp_path / "heimdall"
    shutil.copytree(chart.folder, copy)
    definition = copy / "Chart.yaml"
    definition.write_text(definition.read_text().replace("\nversion: ", "\nversion: 9"))
    assert type(chart)(chart.helm, copy).one("InferenceService") == chart.one("InferenceService")


def test_external_redis_by_secret(chart: Chart) -> None:
    """An address with a password stays in its Secret."""
    redis = {"mode": "external", "external": {"existingSecret": "cache"}}
    (variable,) = [one for one in _transformer(chart.render(redis=redis))["env"] if one["name"] == "REDIS_URL"]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "cache", "key": "REDIS_URL"}}


def test_grpc_is_served_on_the_port_that_knative_reaches(chart: Chart) -> None:
    """h2c is Knative's name for a port that speaks HTTP/2 without TLS."""
    container = _transformer(chart.render(protocol="grpc"))
    assert container["ports"] == [{"name": "h2c", "containerPort": 9081, "protocol": "TCP"}]
    assert {"--enable_grpc=true", "--grpc_port=9081"} <= set(container["args"])


@pytest.mark.parametrize(
    ("uri", "storage", "image", "command"),
    [
        ("s3://b/m", {}, "docker.io/heimdall/predictor:1", ["python", "-m", "predictor.storage_initializer"]),
        ("gs://b/m", {}, "docker.io/kserve/storage-initializer:v0.20.0", None),
        ("s3://b/m", {"s3": {"enabled": False}}, "docker.io/kserve/storage-initializer:v0.20.0", None),
        ("s3://b/m", {"container": {"image": "own:1"}}, "own:1", None),
    ],
)
def test_the_model_is_downloaded_by_what_can(
    chart: Chart, uri: str, storage: dict[str, Any], image: str, command: list[str] | None
) -> None:
    """The predictor's own image where it can, which is S3 with keys; else KServe's, or the one that is named."""
    keys = {"s3": {"accessKeyId": "a", "secretAccessKey": "b"}}
    images = {"predictor": {"tag": "1"}}
    container = chart.one("ClusterStorageContainer", model={"storageUri": uri}, storage=keys | storage, images=images)[
        "spec"
    ]["container"]
    assert (container["image"], container.get("command")) == (image, command)


@pytest.mark.parametrize("mode", MODES)
def test_the_transformer_asks_the_registry_of_the_releases(chart: Chart, mode: str) -> None:
    """One place names the registry; its variables are the transformer's own, which takes what they hold."""
    rollout = {"mlflowUri": "https://mlflow.example:5000/base", "registeredModel": "radio"}
    given = {one["name"]: one.get("value", "") for one in _transformer(chart.render(mode=mode, rollout=rollout))["env"]}
    found = transformer.settings.Settings.from_args(["--predictor_host=p"], given)
    assert (found.mlflow_tracking_uri, found.registered_model) == (rollout["mlflowUri"], "radio")
    assert "MLFLOW" not in str(chart.render(mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_traces_go_to_the_collector(chart: Chart, mode: str) -> None:
    """Both processes get OpenTelemetry's own variables, and without `tracing.enabled` none."""
    tracing = {"enabled": True, "endpoint": "http://collector:4318", "sampleRatio": 0.25}
    objects = chart.render(mode=mode, tracing=tracing)
    expected = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    for container in (_transformer(objects), _service(objects)["predictor"]["model"]):
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert given.items() >= expected.items()
    assert "OTEL" not in str(chart.render(mode=mode))
