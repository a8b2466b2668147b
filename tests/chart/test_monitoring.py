"""The rules and the dashboard as the chart hands them to a cluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rollout import coverage_watch

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Chart

METRIC = re.compile(r"\b(?:transformer|predictor|process|heimdall_probe)_[a-z_]+")
RECORDED = re.compile(r"\b(?:inferenceservice|version):\w+:\w+")
SUFFIXES = ("_bucket", "_count", "_sum")


def _file(chart: Chart, name: str) -> str:
    return (chart.folder / "files" / name).read_text()


def _rules(chart: Chart) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(_file(chart, "rules.yaml"))["groups"] for rule in group["rules"]]


def _rendered(chart: Chart, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - any value of the chart
    metrics = {"rules": {"enabled": True, "labels": {"release": "p"}, **values.pop("rules", {})}}
    return chart.one("PrometheusRule", metrics=metrics, **values)


def test_the_rules_are_the_files(chart: Chart, tmp_path: Path) -> None:
    """The chart changes no rule: what was tested is what is deployed."""
    rendered = _rendered(chart)
    assert rendered["metadata"]["labels"]["release"] == "p"
    assert rendered["spec"] == yaml.safe_load(_file(chart, "rules.yaml"))
    promtool = shutil.which("promtool")
    if promtool is not None:
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered["spec"]))
        subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], check=True, timeout=60)


def test_runbooks_can_be_anywhere(chart: Chart) -> None:
    """With an address of their folder every alert's link leads there."""
    spec = _rendered(chart, rules={"runbooksUrl": "https://docs.example/runbooks/"})["spec"]
    alerts = [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"https://docs.example/runbooks/{rule['alert']}.md"


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_a_component_at_zero_is_not_down(chart: Chart, component: str) -> None:
    """Where a component may scale to zero, nobody is called because it did."""
    spec = _rendered(chart, **{component: {"minReplicas": 0}})["spec"]
    names = [rule["alert"] for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] for rule in _rules(chart) if "alert" in rule} - set(names) == {"HeimdallDown"}


def test_the_dashboard_is_the_files(chart: Chart) -> None:
    """Grafana's sidecar gets the file as it is, under the label that it looks for."""
    objects = chart.render(metrics={"dashboard": {"enabled": True}})
    (found,) = [one for one in objects if one["metadata"]["name"] == "loc-dashboard"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["heimdall.json"]) == json.loads(_file(chart, "dashboard.json"))


def _watch(chart: Chart, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    watch = {"enabled": True, "url": "http://ingress", "host": "loc.ns.example"}
    metrics = {"coverageWatch": watch, "podMonitor": {"enabled": True}}
    return [
        one
        for one in chart.render(metrics=metrics, rollout={"probeSet": "s3://b/probe"}, **values)
        if one["metadata"]["name"] == "loc-coverage-watch"
    ]


def test_the_coverage_watch(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container passes Pod Security "restricted" and has what its command reads; its monitor finds it."""
    deployment, monitor = _watch(chart)
    template = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one.get("value", "x"))
    arguments = coverage_watch._parser().parse_args(container["args"])  # noqa: SLF001 - what the command makes of them
    assert (arguments.url, arguments.host) == ("http://ingress", "loc.ns.example")
    assert (arguments.probe_set, arguments.every_s, arguments.port) == ("s3://b/probe", 3600.0, 8080)


def test_the_coverage_watch_needs_a_probe_set_and_a_service(chart: Chart) -> None:
    """Without them the chart refuses it, instead of a pod that fails."""
    assert "rollout.probeSet" in chart.refusal(metrics={"coverageWatch": {"enabled": True, "url": "http://i"}})
    assert "url" in chart.refusal(metrics={"coverageWatch": {"enabled": True}}, rollout={"probeSet": "s3://b/p"})


def test_neither_is_made_unasked(chart: Chart) -> None:
    """A cluster without the Prometheus operator knows no PrometheusRule."""
    objects = chart.render()
    assert not [one for one in objects if one["kind"] == "PrometheusRule" or "dashboard" in one["metadata"]["name"]]


def test_every_metric_is_described(chart: Chart) -> None:
    """Rules and dashboard use nothing but what docs/metrics.md has and what the rules record themselves."""
    table = (chart.folder.parent.parent / "docs" / "metrics.md").read_text()
    described = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    texts = [rule["expr"] for rule in _rules(chart)] + re.findall(r'"expr": "(.*)"', _file(chart, "dashboard.json"))
    used = {name for text in texts for name in METRIC.findall(text)}
    for name in used:
        base = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
        assert base in described or name in described, name
    recorded = {rule["record"] for rule in _rules(chart) if "record" in rule}
    assert {name for text in texts for name in RECORDED.findall(text)} <= recorded


def test_the_dashboards_panels_do_not_overlap(chart: Chart) -> None:
    """Every cell of Grafana's grid, 24 wide, belongs to one panel; ids are unique, and every panel is explained."""
    panels = json.loads(_file(chart, "dashboard.json"))["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells
        assert max(x for x, _ in own) < 24
        cells |= own
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)
