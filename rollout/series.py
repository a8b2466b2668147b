"""Counters as Prometheus stored them, and how much they grew since a moment.

What belongs here: raw samples, restarts, and their sums. What does not: asking for them (`prometheus`).

`increase()` extrapolates to the ends of its window, which makes fractions of calls and calls that never were. Here a
counter's growth is the difference of two samples, the window's last one and its first. So nothing from before the
window is ever counted, neither an earlier step's calls nor the probe set's; what is called between the window's
beginning and the first scrape is not counted either, for no arm.

- A pod that is gone keeps what it had counted when it was last read.
- A restarted process counts from zero again. The restart shows in `process_start_time_seconds`, which is read in the
  same scrape and so has the same time; without it, one counter of the process that falls says it for all of them,
  because a small one may have grown beyond its old value unseen.
- A series that is not in the first scrape of its process did not exist then: it grew from zero. So did all series of a
  process that is younger than the window.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rollout.arrays import F64

    Target = frozenset[tuple[str, str]]

OWN_LABELS = frozenset({"__name__", "arm", "revision", "code", "le", "version"})
"""Labels that the transformer gives to its series; all others name the process that was read."""

_SAME_START_S = 1.0
"""Starts of processes that are nearer than this are one: a process's own clock may be corrected once."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The samples of one series.

    Attributes:
        labels: All of them, `__name__` included.
        at_s: [n] FP64, increasing, Unix time in seconds.
        values: [n] FP64.
    """

    labels: Mapping[str, str]
    at_s: F64
    values: F64

    @property
    def target(self) -> Target:
        """The process that it was read from."""
        return frozenset((name, text) for name, text in self.labels.items() if name not in OWN_LABELS)


@dataclass(frozen=True, slots=True, eq=False)
class _Life:
    """What is known of one process name (an address or a pod) over the window.

    Attributes:
        first_s: Time of its first scrape.
        born: Whether the process is younger than the window.
        restarts_s: Times of the first samples after restarts.
    """

    first_s: float
    born: bool
    restarts_s: F64


def growths(counters: Iterable[Series], starts: Iterable[Series], since_s: float) -> Iterator[tuple[Series, float]]:
    """Each counter with its growth over a window.

    Args:
        counters: Their samples in the window.
        starts: The samples of `process_start_time_seconds` in the same window.
        since_s: The window's beginning, Unix time in seconds.
    """
    by_target: defaultdict[Target, list[Series]] = defaultdict(list)
    for series in counters:
        by_target[series.target].append(series)
    started = {series.target: series for series in starts}
    for target, group in by_target.items():
        life = _life(started.get(target), group, since_s)
        for series in group:
            yield series, _growth(series, life)


def _life(started: Series | None, group: list[Series], since_s: float) -> _Life:
    read = group if started is None else [*group, started]
    restarts = [series.at_s[1:][np.diff(series.values) < 0.0] for series in group]
    if started is not None:
        restarts.append(started.at_s[1:][np.diff(started.values) > _SAME_START_S])
    born = started is not None and bool(started.values[0] > since_s)
    return _Life(min(float(series.at_s[0]) for series in read), born, np.unique(np.concatenate(restarts)))


def _growth(series: Series, life: _Life) -> float:
    from_zero = life.born or float(series.at_s[0]) > life.first_s
    # Before its first sample a series that grew from zero was zero.
    values = np.append(0.0 if from_zero else series.values[0], series.values)
    at_s = np.append(life.first_s if from_zero else series.at_s[0], series.at_s)
    restarted = np.diff(np.searchsorted(life.restarts_s, at_s, side="right")) > 0
    return float(np.where(restarted, values[1:], np.diff(values)).sum())


def parse_matrix(result: Any) -> tuple[Series, ...]:  # noqa: ANN401 - JSON of another program, checked here
    """Series from the `result` of Prometheus's HTTP API for a range vector; raises `ValueError` for anything else.

    The format: [{"metric": {name: text}, "values": [[time in seconds, "number"]]}]
    (Prometheus, HTTP API, "Range vectors").
    """
    try:
        return tuple(_series(one["metric"], one["values"]) for one in result if one["values"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"not a range vector: {error!r}") from error


def _series(labels: Mapping[str, str], samples: list[list[Any]]) -> Series:
    table = np.array([(float(at_s), float(text)) for at_s, text in samples], dtype=np.float64)
    return Series({str(name): str(text) for name, text in labels.items()}, table[:, 0], table[:, 1])
