"""Real faults on real servers, seen by a real Prometheus: each alert fires for the service that has its fault.

The rules are the chart's own, each duration divided by 60. The same Prometheus then answers the dashboard's queries.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

pytestmark = pytest.mark.timeout(900)
"""Twenty processes have to start, and the slowest alert needs half a minute after that."""

EXPECTED = {
    ("crashed", "HeimdallErrorBudgetBurn", "page"),
    ("crashed", "HeimdallErrorBudgetBurn", "ticket"),
    ("crashed", "HeimdallErrorRate", "ticket"),
    ("crashed", "HeimdallDown", "page"),
    ("crashed", "HeimdallTargetDown", "ticket"),
    ("crashed", "HeimdallRetriesDenied", "ticket"),
    ("slow", "HeimdallLatencyBudgetBurn", "page"),
    ("slow", "HeimdallLatencyBudgetBurn", "ticket"),
    ("hasty", "HeimdallPredictorSilent", "page"),
    ("hasty", "HeimdallPredictorSilent", "ticket"),
    ("full", "HeimdallQueueFull", "ticket"),
    ("forgetful", "HeimdallCacheErrors", "ticket"),
    ("forgetful", "HeimdallCacheLosesAnswers", "ticket"),
    ("blind", "HeimdallTrafficWatchBlind", "ticket"),
    ("nonsense", "HeimdallInvalidOutputs", "ticket"),
    ("overconfident", "HeimdallCoverage", "ticket"),
    ("unwatched", "HeimdallCoverageUnknown", "ticket"),
    ("far", "HeimdallDegradedAnswers", "ticket"),
    ("far", "HeimdallEllipseDrift", "ticket"),
    ("mixed", "HeimdallVersionsDiffer", "ticket"),
    ("mixed", "HeimdallVersionOverwritten", "ticket"),
    ("mixed", "HeimdallModelLoadFailed", "ticket"),
    ("mixed", "HeimdallRestarts", "ticket"),
}


@pytest.fixture(scope="module")
def fired(world: Any) -> set[tuple[str, str, str]]:  # noqa: ANN401 - of conftest.py
    """All that fired at some time: service, alert, severity."""
    world.watch(EXPECTED)
    found: set[tuple[str, str, str]] = world.fired
    return found


@pytest.mark.parametrize(("service", "alert", "severity"), sorted(EXPECTED))
def test_the_fault_fires_its_alert(fired: set[tuple[str, str, str]], service: str, alert: str, severity: str) -> None:
    """The alert of this fault, for the service that has it."""
    assert (service, alert, severity) in fired


def test_every_alert_of_the_chart_was_fired(rules: dict[str, Any]) -> None:
    """No alert is left out."""
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts == {alert for _, alert, _ in EXPECTED}


def test_nobody_is_called_for_the_healthy_service(fired: set[tuple[str, str, str]]) -> None:
    """Nothing fires where nothing is wrong, but for latency, which on a busy machine is the machine's."""
    assert {alert for service, alert, _ in fired if service == "healthy"} <= {"HeimdallLatencyBudgetBurn"}


# --- the dashboard --------------------------------------------------------------------------------------------------

INTERVAL = {"$__rate_interval": "5s", "$namespace": "tests", "[30m]": "[30s]"}
"""What Grafana puts in place of its variables; and the one duration of the dashboard's own, as fast as the rules."""

SHOWN = "healthy|crashed|far|forgetful"
"""The services of the picture."""

COLUMNS = 4
PICTURE = "HEIMDALL_DASHBOARD_PICTURE"
"""Names a file for the picture of docs/observability.md."""


@pytest.fixture(scope="module")
def panels(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    """The panels of the chart's dashboard, without its rows."""
    file = pytestconfig.rootpath / "charts" / "heimdall" / "files" / "dashboard.json"
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def _queries(panel: dict[str, Any], services: str = ".*") -> Iterator[tuple[str, str]]:
    """Each query of a panel, as Grafana would send it, and its legend."""
    for one in panel["targets"]:
        expression = one["expr"]
        for variable, value in {**INTERVAL, "$inferenceservice": services}.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        yield expression, one["legendFormat"]


@pytest.mark.usefixtures("fired")
def test_every_query_of_the_dashboard_has_data(world: Any, panels: list[dict[str, Any]]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """With its variables filled in, each query returns at least one number."""
    empty = [
        (panel["title"], expression)
        for panel in panels
        for expression, _ in _queries(panel)
        if not world.prometheus.query(expression)
    ]
    assert not empty


@pytest.mark.usefixtures("fired")
def test_the_dashboard_can_be_drawn(world: Any, panels: list[dict[str, Any]], tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Its queries give curves over time; the picture of the docs is made here."""
    picture = Path(os.environ.get(PICTURE, tmp_path / "dashboard.png"))
    curves = [panel for panel in panels if panel["type"] == "timeseries"]
    rows = -(-len(curves) // COLUMNS)
    with mpl.rc_context({"font.size": 7, "axes.titlesize": 9}):
        figure = Figure(figsize=(16, 2.6 * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, COLUMNS).flat, curves, strict=False):
            _draw(axes, panel, world.prometheus)
        for axes in figure.axes[len(curves) :]:
            axes.remove()
        figure.savefig(picture, dpi=90)
    assert picture.stat().st_size > 10_000


def _draw(axes: Axes, panel: dict[str, Any], prometheus: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """One panel: its title, and a curve for each series."""
    axes.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]")
    now_s = time.time()
    for expression, legend in _queries(panel, SHOWN):
        for series in prometheus.range(expression, seconds=90.0):
            seconds = [at - now_s for at, _ in series["values"]]
            label = re.sub(r"{{(\w+)}}", lambda found, series=series: series["metric"].get(found[1], ""), legend)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            axes.plot(seconds, [float(value) for _, value in series["values"]], linewidth=0.9, label=label.strip())
    if panel["fieldConfig"]["defaults"]["custom"].get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
    axes.legend(fontsize=5.5, loc="upper left", ncols=2, framealpha=0.4, borderpad=0.2)
    axes.grid(alpha=0.3)
