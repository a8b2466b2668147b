"""The chart's coverage watch on the cluster: what it shows Prometheus is what the model claims."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cluster, Surroundings

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(900)]

NAME = "localization-coverage-watch"
_SAMPLE = re.compile(r'^heimdall_probe_(claimed|coverage)_ratio\{.*confidence_level="([^"]+)"\} (\S+)$', re.MULTILINE)


def test_the_coverage_watch(
    champion: Surroundings,
    rendered: Callable[..., str],
    record_property: Callable[[str, object], None],
) -> None:
    """Under Pod Security "restricted" it reads the probe set from MinIO, asks through the ingress, and finds no lie."""
    cluster = champion.service.cluster
    watch = {"enabled": True, "url": champion.service.ingress, "host": champion.service.host}
    values = {"metrics": {"coverageWatch": watch}, "rollout": {"probeSet": "s3://heimdall-models/probe"}}
    manifest = champion.folder / "coverage.yaml"
    manifest.write_text(rendered(values, "coverage.yaml"))
    cluster.kubectl("apply", "--filename", str(manifest))
    try:
        cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=90s")
        took_s = cluster.wait_until(lambda: 'runs_total{result="ok"} 1.0' in _metrics(cluster), 400, "a run succeeded")
        text = _metrics(cluster)
    finally:
        cluster.kubectl("delete", "--filename", str(manifest), "--ignore-not-found")
    positions = int(float(re.findall(r"^heimdall_probe_positions\{.*\} (\S+)$", text, re.MULTILINE)[0]))
    shown = {(kind, level): float(value) for kind, level, value in _SAMPLE.findall(text)}
    levels = sorted(level for kind, level in shown if kind == "coverage")
    figures = ", ".join(f"{shown['coverage', level]:.3f} of {level}" for level in levels)
    record_property("coverage watch", f"{figures}; {positions} positions; {took_s:.0f} s")
    assert levels
    for level in levels:
        claimed = shown["claimed", level]
        # As in the alert HeimdallCoverage: three standard deviations, and what a new draw of the positions may make.
        bound = 0.03 + 3.0 * math.sqrt(claimed * (1.0 - claimed) / positions)
        assert abs(shown["coverage", level] - claimed) <= bound, figures


def _metrics(cluster: Cluster) -> str:
    """What a scrape of its pod gets; nothing while there is no pod that answers."""
    pods = cluster.find("Pod", "app.kubernetes.io/instance=localization,app.kubernetes.io/component=coverage-watch")
    names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if len(names) != 1:
        return ""
    return cluster.kubectl(
        "get", "--raw", f"/api/v1/namespaces/heimdall/pods/{names[0]}:8080/proxy/metrics", check=False
    )
