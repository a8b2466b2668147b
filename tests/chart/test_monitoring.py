"""The rules and the dashboard as the chart hands them to a cluster."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
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
    """The chart limits each to its service and changes nothing else: what was tested is what is deployed."""
    rendered = _rendered(chart)
    assert rendered["metadata"]["labels"]["release"] == "p"
    expected = yaml.safe_load(_file(chart, "rules.yaml"))
    service = 'label_replace(label_replace(vector(1), "namespace", "ns", "", ""), "inferenceservice", "loc", "", "")'
    for rule in (rule for group in expected["groups"] for rule in group["rules"]):
        rule["expr"] = f"(\n{rule['expr'].strip()}\n)\nand on (namespace, inferenceservice) {service}\n"
    assert rendered["spec"] == expected
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


def test_a_collocated_canary_is_no_stale_version(chart: Chart) -> None:
    """One pod of both knows no arms, so nothing there tells a canary from predictors that differ by mistake."""
    spec = _rendered(chart, mode="collocated")["spec"]
    names = [rule["alert"] for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] for rule in _rules(chart) if "alert" in rule} - set(names) == {"HeimdallVersionsDiffer"}


def test_what_one_release_leaves_out_another_one_has(chart: Chart, tmp_path: Path) -> None:
    """Three services go away and differ: of each tells its own release alone, and only what that did not leave out."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool on the PATH")
    releases: dict[str, dict[str, Any]] = {"plain": {}, "pair": {"mode": "collocated"}}
    releases["zero"] = {"predictor": {"minReplicas": 0}}
    series = []
    for name, values in releases.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(_rendered(chart, name=name, **values)["spec"]))
        of = f'namespace="ns",inferenceservice="{name}"'
        series.append({"series": f'up{{{of},component="predictor"}}', "values": "1x30 0x60"})
        for version, instance in ((1, "a"), (1, "b"), (2, "c")):
            labels = f'{of},version="{version}",model_digest="{version}",instance="{instance}"'
            series.append({"series": f"predictor_model_info{{{labels}}}", "values": "1x90"})
    found = [
        {
            "eval_time": "60m",
            "expr": query,
            "exp_samples": [{"labels": labels, "value": 1} for labels in expected],
        }
        for query, expected in (
            (
                'count by (inferenceservice) (ALERTS{alertname="HeimdallDown",alertstate="firing"})',
                ['{inferenceservice="plain"}', '{inferenceservice="pair"}'],
            ),
            (
                'count by (inferenceservice, version) (ALERTS{alertname="HeimdallVersionsDiffer",version="2"})',
                ['{inferenceservice="plain", version="2"}', '{inferenceservice="zero", version="2"}'],
            ),
        )
    ]
    played = {"interval": "1m", "input_series": series, "promql_expr_test": found}
    files = [f"{name}.yaml" for name in releases]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": files, "tests": [played]}))
    command = [promtool, "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_files(chart: Chart) -> None:
    """Grafana's sidecar gets the file as it is, under the label that it looks for."""
    objects = chart.render(metrics={"dashboard": {"enabled": True}})
    (found,) = [one for one in objects if one["metadata"]["name"] == "loc-dashboard"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["heimdall.json"]) == json.loads(_file(chart, "dashboard.json"))


def _watch(chart: Chart, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    watch = {"enabled": True, "url": "http://ingress", "host": "loc.ns.example"}
    metrics = {"coverageWatch": watch, "podMonitor": {"enabled": True}}
    return [
        one
        for one in chart.render(metrics=metrics, rollout={"probeSet": "s3://b/probe"}, **values)
        if one["metadata"]["name"] == "loc-coverage-watch"
    ]


def test_the_coverage_watch(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container passes Pod Security "restricted" and has what its command reads; its monitor finds it."""
    deployment, monitor = _watch(chart, model={"name": "radio_model"})
    template = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    # docs/observability.md tells services and their processes apart by these two.
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "loc"
    assert template["metadata"]["labels"]["component"] == "coverage-watch"
    assert "component" not in deployment["spec"]["selector"]["matchLabels"], "it cannot be changed by an upgrade"
    (container,) = template["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert container["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one.get("value", "x"))
    arguments = coverage_watch._parser().parse_args(container["args"])  # noqa: SLF001 - what the command makes of them
    assert (arguments.url, arguments.host) == ("http://ingress", "loc.ns.example")
    assert arguments.model_name == "radio_model"
    assert (arguments.probe_set, arguments.every_s, arguments.port) == ("s3://b/probe", 3600.0, 8080)


def test_the_coverage_watch_is_no_pod_of_the_service(chart: Chart) -> None:
    """No selector of the service finds it: not KServe's webhook, no Service, disruption budget or network policy."""
    (deployment, _) = _watch(chart, networkPolicy={"enabled": True}, podDisruptionBudget={"enabled": True})
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert not [name for name in labels if name.startswith(("serving.kserve.io", "serving.knative.dev"))]
    for one in chart.render(networkPolicy={"enabled": True}, podDisruptionBudget={"enabled": True}):
        spec = one.get("spec", {})
        chosen = spec.get("podSelector") or spec.get("selector") or {}
        wanted = chosen.get("matchLabels", chosen)
        assert not wanted or not wanted.items() <= labels.items(), one


def test_the_coverage_watch_needs_a_probe_set_and_a_service(chart: Chart) -> None:
    """Without them the chart refuses it, instead of a pod that fails; the same where nobody answers it by HTTP."""
    assert "protocol http" in chart.refusal(metrics={"coverageWatch": {"enabled": True}}, protocol="grpc")
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


_CAMEL = re.compile(r"(?<=[a-z])[A-Z]")
_POD = {
    "__meta_kubernetes_namespace": "ns",
    "__meta_kubernetes_pod_ip": "10.0.0.7",
    "__meta_kubernetes_pod_label_component": "predictor",
    "__meta_kubernetes_pod_label_serving_kserve_io_inferenceservice": "loc",
    "component": "predictor",  # as the operator makes it of podTargetLabels, before the relabelings
    "namespace": "ns",
}
"""What Prometheus discovers of a pod; each container port of it is a target."""

_PORTS = [("queue-proxy", "queue-port"), ("queue-proxy", "http-usermetric"), ("kserve-container", "user-port")]


def _scrape_jobs(monitor: dict[str, Any]) -> list[dict[str, Any]]:
    """The monitor's endpoints as scrape jobs, as the operator writes them, on a pod with some container ports."""
    found = [
        {
            "targets": ["10.0.0.7:1"],
            "labels": _POD
            | {
                "__meta_kubernetes_pod_container_name": container,
                "__meta_kubernetes_pod_container_port_name": port,
            },
        }
        for container, port in _PORTS
    ]
    return [
        {
            "job_name": f"ns/loc/{index}",
            "static_configs": found,
            "relabel_configs": [
                {_CAMEL.sub(lambda one: f"_{one[0].lower()}", key): value for key, value in step.items()}
                for step in endpoint["relabelings"]
            ],
        }
        for index, endpoint in enumerate(monitor["spec"]["podMetricsEndpoints"])
    ]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("separate", {"10.0.0.7:8080": "predictor"}),
        ("collocated", {"10.0.0.7:8080": "transformer", "10.0.0.7:8081": "predictor"}),
    ],
)
def test_the_monitors_relabelings(chart: Chart, tmp_path: Path, mode: str, expected: dict[str, str]) -> None:
    """Prometheus itself makes of a pod each process once, with the labels that rules and dashboard go by."""
    monitor = chart.one("PodMonitor", mode=mode, metrics={"podMonitor": {"enabled": True}})
    targets = _discovered(_scrape_jobs(monitor), tmp_path, len(expected))
    assert {one["labels"]["instance"]: one["labels"]["component"] for one in targets} == expected
    assert {(one["labels"]["namespace"], one["labels"]["inferenceservice"]) for one in targets} == {("ns", "loc")}


def test_the_documented_jobs_for_a_collocated_pod(chart: Chart, tmp_path: Path) -> None:
    """The jobs of docs/observability.md make each process of such a pod a target, and nothing of another pod."""
    page = (chart.folder.parent.parent / "docs" / "observability.md").read_text()
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
    pod = {
        "__meta_kubernetes_namespace": "ns",
        "__meta_kubernetes_pod_ip": "10.0.0.7",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "heimdall",
        "__meta_kubernetes_pod_label_app_kubernetes_io_instance": "loc",
        "__meta_kubernetes_pod_label_component": "predictor",
    }
    containers = [("10.0.0.7", name) for name in ("queue-proxy", "kserve-container", "transformer-container")]
    found = [
        {
            "targets": ["10.0.0.7:1"],
            "labels": pod | {"__meta_kubernetes_pod_ip": address, "__meta_kubernetes_pod_container_name": name},
        }
        for address, name in (*containers, ("10.0.0.8", "kserve-container"))
    ]
    jobs = yaml.safe_load(text)["scrape_configs"]
    for job in jobs:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["static_configs"] = found
    targets = _discovered(jobs, tmp_path, 2)
    expected = {"10.0.0.7:8080": "transformer", "10.0.0.7:8081": "predictor"}
    assert {one["labels"]["instance"]: one["labels"]["component"] for one in targets} == expected
    assert {(one["labels"]["namespace"], one["labels"]["inferenceservice"]) for one in targets} == {("ns", "loc")}


def _discovered(jobs: list[dict[str, Any]], folder: Path, count: int) -> list[dict[str, Any]]:
    """What a Prometheus with these jobs would scrape."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("there is no prometheus on the PATH")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [prometheus, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL) as process:
        try:
            return _targets(address, count)
        finally:
            process.terminate()


def _targets(address: str, count: int) -> list[dict[str, Any]]:
    """What Prometheus would scrape, once that is so much; it begins some seconds after its start."""
    found: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline_s:
        time.sleep(0.2)
        with suppress(OSError), urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=5) as answer:
            found = json.load(answer)["data"]["activeTargets"]
    return found
