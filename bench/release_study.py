"""What errors and latency do to good and to bad versions: thousands of simulated releases a case.

`python bench/release_study.py [--releases 10000]` takes about two minutes of one core; it prints the table of
docs/verdict.md and writes the figures to build/release_study/traffic.json. `probe_study.py` does the probe set.

Every release runs through the policy's steps, 50 calls a second, looked at every 30 s, by the
functions that `rollout.assess` calls. Half of the calls are cache misses, whose durations are log-normal around 12 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest, norm

from rollout.policy import Policy
from rollout.proportions import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

FOLDER = Path("build/release_study")
BOUNDS_S = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""As `transformer.metrics.SECONDS`."""
EDGES_S = np.array(BOUNDS_S)

CALLS_PER_LOOK, LOOK_S, MISSES = 1_500, 30.0, 0.5
MEDIAN_S, SPREAD = 0.012, 0.4


@dataclass(frozen=True, slots=True)
class Case:
    """A canary beside a stable arm.

    Attributes:
        name: In the tables.
        good: Whether it must not be rolled back; False for one that must be caught, None for one between the margins.
        stable_errors: Error ratio of the stable arm.
        canary_errors: Of the canary.
        slowness: Canary's durations to the stable arm's.
        median_s: Median duration of the stable arm.
        bursts: Standard deviation of the logarithm of a factor on both arms' errors and durations, new at every look.
        own_bursts: The same for the canary alone, so that its calls are not independent.
    """

    name: str
    good: bool | None
    stable_errors: float = 0.01
    canary_errors: float = 0.01
    slowness: float = 1.0
    median_s: float = MEDIAN_S
    bursts: float = 0.0
    own_bursts: float = 0.0


CASES = (
    Case("equal, 1 % errors", good=True),
    Case("equal, no errors", good=True, stable_errors=0.0, canary_errors=0.0),
    Case("equal, bursts that both arms share", good=True, bursts=0.5),
    Case("better: 0.5 % errors, 10 % faster", good=True, canary_errors=0.005, slowness=0.9),
    Case("at the margins: +0.5 points, 1.2 times", good=True, canary_errors=0.015, slowness=1.2),
    Case("errors 1 % → 3 %", good=False, canary_errors=0.03),
    Case("crashes in 20 % of the calls", good=False, canary_errors=0.208),
    Case("twice as slow", good=False, slowness=2.0),
    Case("twice as slow, median 4 ms", good=False, slowness=2.0, median_s=0.004),
    Case("twice as slow, median 40 ms", good=False, slowness=2.0, median_s=0.04),
    Case("0.3 s slower", good=False, slowness=26.0),
    Case("equal, 20 % bursts of the canary's own", good=None, own_bursts=0.2),
    Case("equal, 50 % bursts of the canary's own", good=None, own_bursts=0.5),
    Case("between: errors 1 % → 2 %", good=None, canary_errors=0.02),
    Case("between: 1.5 times as slow", good=None, slowness=1.5),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a case's releases.

    Attributes:
        case: Its name.
        good: As in `Case`.
        releases: How many.
        failed: Rolled back.
        passed: Went through.
        failed_bounds: Clopper-Pearson interval of the share rolled back, 95 % two-sided.
        canary_calls: Median and 99 % quantile of the canary's calls until the decision.
        minutes: The same of the time.
    """

    case: str
    good: bool | None
    releases: int
    failed: int
    passed: int
    failed_bounds: tuple[float, float]
    canary_calls: tuple[float, float]
    minutes: tuple[float, float]


class Run:
    """All releases of one case at once.

    Args:
        case: What is released.
        policy: How it is judged.
        releases: How many.
        seed: Of everything random.
    """

    def __init__(self, case: Case, policy: Policy, releases: int, seed: int) -> None:
        self._case, self._policy = case, policy
        self._rng = np.random.default_rng(seed)
        self.failed = np.zeros(releases, dtype=bool)
        self.passed = np.zeros(releases, dtype=bool)
        self.calls = np.zeros(releases)
        self.seconds = np.zeros(releases)

    def run(self) -> None:
        """All steps; a release goes on to the next when it passes one."""
        going = np.arange(len(self.failed))
        for percent in self._policy.steps_percent:
            going = self._step(percent / 100.0, going)
        self.passed[going] = True

    def _step(self, share: float, going: NDArray[np.int64]) -> NDArray[np.int64]:
        """One step; returns the releases that passed it. Those still open at its end stay so."""
        errors, latency = self._policy.error_test(), self._policy.latency_test()
        counts = np.zeros((len(going), 2, 2))  # arm (canary, stable); errors, calls
        durations = np.zeros((len(going), 2, len(BOUNDS_S) + 1))
        passed: list[NDArray[np.int64]] = []
        before = np.zeros(len(going))
        for look in range(1, round(self._policy.maximum_step_s / LOOK_S) + 1):
            self._draw(share, counts, durations)
            self.calls[going] += counts[:, 0, 1] - before
            self.seconds[going] += LOOK_S
            arms = [Counts(*counts[:, arm].T) for arm in (0, 1)]
            fail = errors.fails(*arms) | latency.fails(durations[:, 0], durations[:, 1], EDGES_S)
            enough = np.minimum(counts[:, 0, 1], durations[:, 0].sum(axis=-1)) >= self._policy.minimum_calls
            enough &= look * LOOK_S >= self._policy.minimum_step_s
            enough &= ~fail & errors.passes(*arms)
            enough[enough] = latency.passes(durations[enough, 0], durations[enough, 1], EDGES_S)
            self.failed[going[fail]] = True
            passed.append(going[enough])
            stay = ~fail & ~enough
            going, counts, durations = going[stay], counts[stay], durations[stay]
            before = counts[:, 0, 1].copy()
            if not len(going):
                break
        return np.concatenate(passed)

    def _draw(self, share: float, counts: F64, durations: F64) -> None:
        """Add one look's calls."""
        case, rng = self._case, self._rng
        releases = len(counts)
        shared, own = (np.exp(s * (rng.standard_normal(releases) - s / 2.0)) for s in (case.bursts, case.own_bursts))
        canary = rng.binomial(CALLS_PER_LOOK, share, releases)
        arms = (
            (canary, case.canary_errors, case.slowness, shared * own),
            (CALLS_PER_LOOK - canary, case.stable_errors, 1.0, shared),
        )
        for arm, (calls, ratio, slowness, burst) in enumerate(arms):
            counts[:, arm, 0] += rng.binomial(calls, np.minimum(ratio * burst, 1.0))
            counts[:, arm, 1] += calls
            median_s = case.median_s * slowness * burst[:, None]
            below = norm.cdf(np.log(EDGES_S / median_s) / SPREAD)
            shares = np.diff(below, prepend=0.0, append=1.0, axis=-1)
            durations[:, arm] += rng.multinomial(rng.binomial(calls, MISSES), shares)


def traffic(case: Case, policy: Policy, releases: int, seed: int) -> Figures:
    """Errors and latency of one case."""
    run = Run(case, policy, releases, seed)
    run.run()
    return _figures(case, run.failed, run.passed, run.calls, run.seconds / 60.0)


def _figures(case: Case, failed: NDArray[np.bool_], passed: NDArray[np.bool_], calls: F64, minutes: F64) -> Figures:
    count = int(failed.sum())
    return Figures(
        case.name,
        case.good,
        len(failed),
        count,
        int(passed.sum()),
        clopper_pearson(count, len(failed)),
        _quantiles(calls),
        _quantiles(minutes),
    )


def clopper_pearson(count: int, total: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper & Pearson, Biometrika 26 (1934) 404)."""
    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def _quantiles(values: F64) -> tuple[float, float]:
    middle, late = np.quantile(values, (0.5, 0.99))
    return float(middle), float(late)


def main() -> None:
    """Run every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000)
    releases, policy = parser.parse_args().releases, Policy()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = {"policy": asdict(policy), "cases": [asdict(figures) for figures in _table(policy, releases)]}
    (FOLDER / "traffic.json").write_text(json.dumps(found, indent=1))


def _table(policy: Policy, releases: int) -> Iterator[Figures]:
    print("| case | rolled back | interval | passed | canary's calls: median, 99 % | minutes: median, 99 % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed, case in enumerate(CASES):
        figures = traffic(case, policy, releases, seed)
        calls, minutes = (f"{pair[0]:,.0f}, {pair[1]:,.0f}" for pair in (figures.canary_calls, figures.minutes))
        print(
            f"| {case.name} | {figures.failed / releases:.2%} | {_interval(figures)} | "
            f"{figures.passed / releases:.2%} | {calls} | {minutes} |",
            flush=True,
        )
        yield figures


def _interval(figures: Figures) -> str:
    low, high = figures.failed_bounds
    return f"{low:.2%} to {high:.2%}"


if __name__ == "__main__":
    start_s = time.process_time()
    main()
    print(f"{time.process_time() - start_s:.0f} s of CPU time")
