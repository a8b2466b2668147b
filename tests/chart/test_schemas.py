"""Manifests and rendered objects against KServe's own schemas, without a cluster.

schemas/kserve-0.20.0.json.gz holds, by kind, the `openAPIV3Schema` of the stored version of KServe 0.20.0's custom
resource definitions, as `kubectl get crd NAME -o json` gives them, without their descriptions.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from conftest import Chart

KINDS = {"InferenceService", "ServingRuntime", "ClusterStorageContainer"}


@pytest.fixture(scope="module")
def schemas(pytestconfig: pytest.Config) -> dict[str, Draft202012Validator]:
    """A validator for each kind that takes no unknown field, like `kubectl apply --validate=strict`."""
    path = pytestconfig.rootpath / "tests" / "chart" / "schemas" / "kserve-0.20.0.json.gz"
    found = json.loads(gzip.decompress(path.read_bytes()))
    return {kind: Draft202012Validator(_strict(schema)) for kind, schema in found.items()}


def _strict(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """The same schema, in which objects with known properties take no others."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    is_closed = isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields")
    if is_closed and "type" in schema:
        strict.setdefault("additionalProperties", False)
    return strict


def _problems(objects: list[dict[str, Any]], schemas: dict[str, Draft202012Validator]) -> list[str]:
    return [
        f"{one['kind']} {error.json_path}: {error.message[:200]}"
        for one in objects
        if one["kind"] in KINDS
        for error in schemas[one["kind"]].iter_errors(one)
    ]


@pytest.mark.parametrize("name", ["quickstart", "production", "canary-10", "collocated"])
def test_the_manifests_fit(chart: Chart, schemas: dict[str, Draft202012Validator], name: str) -> None:
    """Every object of KServe in every manifest."""
    path = chart.folder.parent.parent / "manifests" / f"{name}.yaml"
    objects = [one for one in yaml.safe_load_all(path.read_text()) if one]
    assert {one["kind"] for one in objects} >= KINDS
    assert not _problems(objects, schemas)


@pytest.mark.parametrize("mode", ["separate", "collocated"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_values_can_switch_on_fits(
    chart: Chart, schemas: dict[str, Draft202012Validator], mode: str, protocol: str
) -> None:
    """Also what no manifest shows: tracing, gRPC, placement, further variables."""
    component = {
        "extraEnv": [{"name": "A", "value": "b"}],
        "annotations": {"autoscaling.knative.dev/window": "10s"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    objects = chart.render(
        mode=mode,
        protocol=protocol,
        predictor=component,
        transformer=component,
        canary={"percent": 10},
        images={"pullSecrets": ["registry"]},
        tracing={"enabled": True, "endpoint": "http://collector:4318"},
    )
    assert not _problems(objects, schemas)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("InferenceService", ("spec", "predictor", "canaryPercent"), 10),
        ("InferenceService", ("spec", "predictor", "minReplicas"), "2"),
        ("InferenceService", ("spec", "predictor", "model", "storageURI"), "s3://b/m"),
        ("ServingRuntime", ("spec", "supportedModelFormats"), [{"version": "1"}]),
        ("ClusterStorageContainer", ("spec", "container", "securityContext", "runAsUser"), "1000"),
    ],
)
def test_a_mistake_is_found(
    chart: Chart, schemas: dict[str, Draft202012Validator], kind: str, path: tuple[str, ...], value: object
) -> None:
    """An unknown field, a wrong type and a missing name are problems."""
    one = chart.one(kind)
    inner = one
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert len(_problems([one], schemas)) == 1
