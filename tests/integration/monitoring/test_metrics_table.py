"""docs/metrics.md against what the running processes export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from predictor.metrics import PredictorMetrics
from predictor.recorder import Recorder
from rollout.coverage import Coverage, Runs, exposition
from transformer.arms import Arm, Arms
from transformer.metrics import Metrics
from transformer.traffic_watch import Snapshot, WatchState

if TYPE_CHECKING:
    from collections.abc import Iterable

ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|[^|]+\|([^|]*)\| [^|]+ \|$")


@dataclass(frozen=True)
class Row:
    """One metric as the table has it."""

    kind: str
    labels: frozenset[str]


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> dict[str, dict[str, Row]]:
    """The rows by metric, by section."""
    sections: dict[str, dict[str, Row]] = {}
    for line in (pytestconfig.rootpath / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("## "):
            rows = sections.setdefault(line.removeprefix("## "), {})
        elif found := ROW.match(line):
            name, kind, labels = found.groups()
            assert name not in rows, f"{name} stands there twice"
            rows[name] = Row(kind, frozenset(filter(None, labels.replace(" ", "").split(","))))
    return sections


def _exported(text: str) -> dict[str, Row]:
    """What a scrape says: every metric's type, and the labels of its samples; counters by their full name."""
    rows: dict[str, Row] = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        own = {label for sample in family.samples for label in sample.labels} - {"le"}
        rows[name] = Row(family.type, frozenset(own))
    return rows


def _merged(*parts: dict[str, Row]) -> dict[str, Row]:
    return {name: row for part in parts for name, row in part.items()}


def _kinds(rows: dict[str, Row]) -> dict[str, str]:
    return {name: row.kind for name, row in rows.items()}


def test_the_processes_export_what_the_table_says(table: Any, predictor: Any, transformer: Any, drawn: Any) -> None:  # noqa: ANN401 - of conftest.py
    """Names and types, in both directions; and the labels of everything that has samples after an ordinary request."""
    for _ in range(2):
        transformer.infer(np.array(drawn.iq[:1]))
    for server, own in ((transformer, "Transformer"), (predictor, "Predictor")):
        exported = _exported(server.call("GET", "/metrics").body.decode())
        described = _merged(table[own], table["Both processes"])
        assert _kinds(exported) == _kinds(described)
        with_samples = {name: row for name, row in exported.items() if row.labels}
        assert with_samples.items() <= described.items()
        assert {"transformer": 12, "predictor": 12}[own.lower()] <= len(with_samples)


def _everything_happens_to_the_transformer() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    arm = Arm("stable", "http://p", 100, "p-00001")
    described: Any = SimpleNamespace(version="1", model_digest="d", contract=SimpleNamespace(digest="c"))
    metrics.upstream(arm, "invalid", 0.1)
    metrics.upstream_settled(arm, 0.1)
    metrics.serves(arm, described)
    metrics.retried("connection")
    metrics.retry_denied("budget")
    metrics.request_ended("m", "1", 200, 0.1)
    metrics.cache_event("hit")
    metrics.cache_repeat("hit")
    metrics.degraded(["clipped"])
    metrics.estimate("1", 0.5, 1e6)
    metrics.traffic(Snapshot(Arms(arm), WatchState.WATCHING, 0.0))
    return registry


def _everything_happens_to_the_predictor() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics, recorder = PredictorMetrics("m"), Recorder()
    metrics.serves("1", recorder, {})
    recorder.answered(200, 0.1)
    registry.register(metrics)
    return registry


WATCH = exposition(Runs(1, 1, 1.0, Coverage("1", (0.5,), (0.5,), 1, 1.0)))


@pytest.mark.parametrize(
    ("section", "registry"),
    [
        ("Transformer", _everything_happens_to_the_transformer()),
        ("Predictor", _everything_happens_to_the_predictor()),
        ("Coverage watch", WATCH),
    ],
)
def test_every_label_is_in_the_table(table: Any, section: str, registry: CollectorRegistry | str) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Also those of metrics that only faults give samples to."""
    text = registry if isinstance(registry, str) else generate_latest(registry).decode()
    assert _exported(text) == table[section]


def _words(rows: Iterable[str]) -> set[str]:
    return {word for name in rows for word in name.split("_")}


def test_names_follow_prometheus(table: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Base units only, and `_total` behind exactly the counters (prometheus.io/docs/practices/naming)."""
    rows = _merged(*table.values())
    assert not _words(rows) & {"ms", "milliseconds", "minutes", "kb", "mb", "percentage"}
    assert {name for name in rows if name.endswith("_total")} == {
        name for name, row in rows.items() if row.kind == "counter"
    }
