"""What Prometheus is told of a probe set's run: how many of the served ellipses hold the truth.

What belongs here: pure functions from answers to figures, and to Prometheus' text. What does not: asking the service
and answering scrapes (`coverage_watch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rollout.probe_answers import judged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rollout.probe_answers import ServedAnswers
    from rollout.probe_set import ProbeSet


@dataclass(frozen=True, slots=True)
class Coverage:
    """One version's answers to the whole probe set.

    Attributes:
        version: Who answered.
        levels: [L] what the ellipses claim.
        inside: [L] the share of the captures whose ellipse holds the truth; one without an answer holds nothing.
        positions: How many different transmitter positions there are. Captures of one position err alike, so this, and
            not their number, is what a deviation has to be measured by.
        rms_error_m: Root mean square of the errors of those that were answered; NaN where none was.
    """

    version: str
    levels: tuple[float, ...]
    inside: tuple[float, ...]
    positions: int
    rms_error_m: float


@dataclass(frozen=True, slots=True)
class Runs:
    """How the runs went.

    Attributes:
        succeeded: Runs whose figures are shown.
        failed: Runs that came to nothing.
        last_s: When the last one succeeded, Unix time; 0 before the first.
        coverage: The last one's; None before the first.
    """

    succeeded: int = 0
    failed: int = 0
    last_s: float = 0.0
    coverage: Coverage | None = None


def measured(version: str, probe_set: ProbeSet, served: ServedAnswers) -> Coverage:
    """The figures of one version's answers."""
    answers = judged(served, probe_set.truth_deg)
    square_m2 = np.sum(np.square(answers.error_m), axis=-1)
    answered = np.isfinite(square_m2)
    rms_error_m = float(np.sqrt(square_m2[answered].mean())) if answered.any() else float("nan")
    inside = tuple(np.asarray(answers.inside, dtype=np.float64).mean(axis=0).tolist())
    return Coverage(version, probe_set.levels, inside, len(np.unique(probe_set.position)), rms_error_m)


def exposition(runs: Runs) -> str:
    """Everything in Prometheus' text format, version 0.0.4."""
    outcomes = [({"result": "ok"}, float(runs.succeeded)), ({"result": "failed"}, float(runs.failed))]
    lines = [*_family("heimdall_probe_runs_total", "counter", "Runs of the probe set", outcomes)]
    if runs.coverage is not None:
        lines += _figures(runs.coverage)
        text = "When the last run succeeded, Unix time"
        lines += _family("heimdall_probe_last_success_timestamp_seconds", "gauge", text, [({}, runs.last_s)])
    return "\n".join([*lines, ""])


def _figures(found: Coverage) -> Iterator[str]:
    version = {"version": found.version}
    by_level = [{**version, "confidence_level": f"{level:g}"} for level in found.levels]
    claimed = list(zip(by_level, found.levels, strict=True))
    inside = list(zip(by_level, found.inside, strict=True))
    yield from _family("heimdall_probe_claimed_ratio", "gauge", "Confidence level of the served ellipses", claimed)
    yield from _family("heimdall_probe_coverage_ratio", "gauge", "Share of them that hold the truth", inside)
    text = "Different transmitter positions in the probe set"
    yield from _family("heimdall_probe_positions", "gauge", text, [(version, float(found.positions))])
    text = "Root mean square of the errors"
    yield from _family("heimdall_probe_error_rms_meters", "gauge", text, [(version, found.rms_error_m)])


def _family(name: str, kind: str, text: str, samples: Sequence[tuple[dict[str, str], float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
