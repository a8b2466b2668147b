"""The alerts by themselves: promtool plays series to them, and says which fire."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

FIRING = 'sum by (alertname, severity, burn_rate) (0 * ALERTS{alertstate="firing"})'
STEPS = (1, 4)
"""Minutes between two evaluations, of short and of long scenarios: less than the 5 that a recorded value is valid."""

LONG = 200
"""Minutes from which a scenario is long."""


@pytest.fixture(scope="module")
def rules_file(pytestconfig: pytest.Config) -> Path:
    """The rules of the chart."""
    return pytestconfig.rootpath / "charts" / "heimdall" / "files" / "rules.yaml"


def _alerts(rules_file: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(rules_file.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_the_rules_are_valid(promtool: str, rules_file: Path) -> None:
    """Prometheus itself reads them."""
    subprocess.run([promtool, "check", "rules", rules_file], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("step_minutes", STEPS)
def test_every_alert_fires_when_it_should_and_only_then(
    promtool: str,
    rules_file: Path,
    scenarios: Any,  # noqa: ANN401 - of conftest.py
    tmp_path: Path,
    step_minutes: int,
) -> None:
    """Of each scenario exactly the expected alerts fire, by promtool's own evaluation."""
    tests = [_test(one) for one in scenarios if _step_minutes(one) == step_minutes]
    done = _played(promtool, rules_file, tests, tmp_path, step_minutes)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_expectation_fails(promtool: str, rules_file: Path, scenarios: Any, tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """An alert that is missing and one that is too many are both found: the scenarios say something."""
    quiet, loud = scenarios[0], next(one for one in scenarios if one.firing and _step_minutes(one) == 1)
    for wrong in (replace(quiet, firing=loud.firing), replace(loud, firing=quiet.firing)):
        assert _played(promtool, rules_file, [_test(wrong)], tmp_path).returncode == 1


def _step_minutes(one: Any) -> int:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    return STEPS[one.minute >= LONG]


def _test(one: Any) -> dict[str, Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    expected = [{"labels": _labels(alert, *severity.split("@")), "value": 0} for alert, severity in one.firing]
    return {
        "name": one.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in one.series.items()],
        "promql_expr_test": [{"expr": FIRING, "eval_time": f"{one.minute}m", "exp_samples": expected}],
    }


def _labels(alert: str, severity: str, burn_rate: str = "") -> str:
    return f'{{alertname="{alert}",severity="{severity}"' + (f',burn_rate="{burn_rate}"}}' if burn_rate else "}")


def _played(
    promtool: str, rules_file: Path, tests: list[dict[str, Any]], folder: Path, step_minutes: int = 1
) -> subprocess.CompletedProcess[str]:
    scenarios = {"rule_files": [str(rules_file)], "evaluation_interval": f"{step_minutes}m", "tests": tests}
    file = folder / "scenarios.yaml"
    file.write_text(yaml.safe_dump(scenarios))
    return subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=120, check=False)


def test_every_alert_has_its_scenario(rules_file: Path, scenarios: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """No alert, and no severity of one, is left out above."""
    told = {(rule["alert"], "@".join(rule["labels"].values())) for rule in _alerts(rules_file)}
    assert told == {one for scenario in scenarios for one in scenario.firing}


def test_every_alert_has_its_page(rules_file: Path, pytestconfig: pytest.Config) -> None:
    """The runbook says what it means, who is hurt, how to look and what to do; no page is without an alert."""
    folder = pytestconfig.rootpath / "docs" / "runbooks"
    pages = {rule["annotations"]["runbook_url"] for rule in _alerts(rules_file)}
    assert pages == {f"docs/runbooks/{rule['alert']}.md" for rule in _alerts(rules_file)}
    assert {f"docs/runbooks/{page.name}" for page in folder.glob("Heimdall*.md")} == pages
    for page in folder.glob("Heimdall*.md"):
        text = page.read_text()
        assert text.startswith(f"# {page.stem}\n")
        headings = [line for line in text.splitlines() if line.startswith("## ")]
        assert headings == ["## What it means", "## Who is hurt", "## How to look", "## What to do"], page.name


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own tool."""
    found = shutil.which("promtool")
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no promtool on the PATH")
    return found
