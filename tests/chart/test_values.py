"""The values: documented one by one, and nothing accepted that is not one of them."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from oip import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Chart

OPEN = {"annotations", "nodeSelector", "labels", "policy"}
"""Maps whose keys are the user's own."""


def _schema(chart: Chart) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((chart.folder / "values.schema.json").read_text())
    return schema


def _objects(chart: Chart) -> Iterator[tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]]:
    """Path, defaults and schema of every object of values.yaml."""
    schema = _schema(chart)
    left: list[tuple[tuple[str, ...], Any, Any]] = [
        ((), yaml.safe_load((chart.folder / "values.yaml").read_text()), schema)
    ]
    while left:
        path, value, described = left.pop()
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].rpartition("/")[2]]
        if isinstance(value, dict) and path[-1:] not in {(name,) for name in OPEN}:
            yield path, value, described
            left += [((*path, name), value[name], described["properties"][name]) for name in value]


def test_the_schema_describes_exactly_the_values(chart: Chart) -> None:
    """Every default has its entry in the schema and the other way round, and no object takes unknown keys."""
    optional = {"global", "requests", "limits", "cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
    for path, value, described in _objects(chart):
        assert described["additionalProperties"] is False, path
        assert set(value) <= set(described["properties"]), path
        assert set(described["properties"]) - set(value) <= optional, path


def test_every_value_is_documented(chart: Chart) -> None:
    """Each entry of the schema says what it is."""
    for path, _, described in _objects(chart):
        assert described["description"], path
        for name, entry in described["properties"].items():
            assert entry.get("description") or "$ref" in entry or path[-1:] in {("requests",), ("limits",)}, (
                *path,
                name,
            )


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 2},
        {"model": {"stage": "Production"}},
        {"predictor": {"minreplicas": 1}},
        {"predictor": {"resources": {"limits": {"cpus": 1}}}},
        {"images": {"predictor": {"digest": "x"}}},
        {"redis": {"bundled": {"persistence": True}}},
        {"mode": "both"},
        {"canary": {"percent": 101}},
        {"model": {"digest": "sha256:abc"}},
        {"model": {"version": "v2"}},
        {"predictor": {"containerConcurrency": 64}},
        {"predictor": {"timeoutSeconds": 30}},
        {"transformer": {"extraArgs": ["dsp_threads=2"]}},
        {"transformer": {"extraEnv": [{"name": "A"}]}},
        {"name": "Upper"},
        {"tracing": {"enabled": True}},
        {"tracing": {"sampleRatio": 1.5}},
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(chart: Chart, values: dict[str, Any]) -> None:
    """Unknown keys and impossible values end the rendering, instead of being ignored."""
    assert "values don't meet the specifications of the schema" in chart.refusal(**values)


def test_s3_without_credentials_is_refused(chart: Chart) -> None:
    """A service that could never download its model is not made."""
    assert "storage.s3.accessKeyId or existingSecret is needed" in chart.refusal(storage={})


def test_the_chart_passes_its_lint(chart: Chart) -> None:
    """`helm lint --strict` has nothing to say."""
    done = chart.run("lint", "--strict", str(chart.folder), values={"storage": {"s3": {"existingSecret": "s"}}})
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("names", [["quickstart"], ["production"], ["production", "canary-10"]], ids=str)
def test_values_of_the_last_release_are_still_values(
    chart: Chart, pytestconfig: pytest.Config, tmp_path: Path, names: list[str]
) -> None:
    """Whoever wrote values for the released chart upgrades without changing them."""
    (released,) = (pytestconfig.rootpath / "tests" / "chart" / "released").glob("heimdall-*.tgz")
    with tarfile.open(released) as packed:
        packed.extractall(tmp_path, filter="data")
    defaults = tmp_path / "heimdall" / "values.yaml"
    folder = chart.folder.parent / "values"
    files = [
        word for path in (defaults, *(folder / f"{name}.yaml" for name in names)) for word in ("--values", str(path))
    ]
    for root in (tmp_path / "heimdall", chart.folder):
        done = chart.run("template", "loc", str(root), "--kube-version", "1.34", *files)
        assert done.returncode == 0, done.stderr


def test_a_changed_chart_has_another_version(chart: Chart, pytestconfig: pytest.Config) -> None:
    """Nodes keep the image of a tag that they have: a chart that differs from the released one names other tags too."""
    (released,) = (pytestconfig.rootpath / "tests" / "chart" / "released").glob("heimdall-*.tgz")
    with tarfile.open(released) as packed:
        members = [(one.name, packed.extractfile(one)) for one in packed.getmembers()]
        before = {name.partition("/")[2]: content.read() for name, content in members if content}
    own = yaml.safe_load((chart.folder / "Chart.yaml").read_text())
    assert own["appVersion"] == __version__
    paths = [path for path in chart.folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(chart.folder)): path.read_bytes() for path in paths}
    old = yaml.safe_load(before.pop("Chart.yaml"))
    del files["Chart.yaml"]
    for name in ("version", "appVersion"):
        assert files == before or _numbers(own[name]) > _numbers(old[name])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
