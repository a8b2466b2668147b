"""What the verdict does to good and to bad versions: thousands of simulated releases a case.

`python bench/release_study.py [--releases 10000]` takes about eight minutes of one core; it prints the tables of
docs/verdict.md and writes the figures to build/release_study/figures.json.

Errors and latency: every release runs through the policy's steps, 50 calls a second, looked at every 30 s, by the
functions that `rollout.assess` calls. Half of the calls are cache misses, whose durations are log-normal around 12 ms.
The probe set: the reference room's variants answer 20,000 simulated captures once, and releases draw from these.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, norm

from reference.estimates import LEVELS, LocalModel, concatenated, standard_features
from reference.geometry import offsets_m
from reference.metrics import inside_ellipse
from reference.simulate import blocks
from reference.variants import prepare
from rollout.measurements import ProbeAnswers, ProbeResults
from rollout.policy import Policy
from rollout.proportions import Counts
from rollout.resampling import Sums, lower_bounds, t_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from reference.estimates import Estimates
    from rollout.probe_evidence import ProbeTest

    F64 = NDArray[np.float64]
    Draw = Callable[[np.random.Generator, "Case", int], tuple[F64, F64]]

FOLDER = Path("build/release_study")
BOUNDS_S = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""As `transformer.metrics.SECONDS`."""
EDGES_S = np.array(BOUNDS_S)

CALLS_PER_LOOK, LOOK_S, MISSES = 1_500, 30.0, 0.5
MEDIAN_S, SPREAD = 0.012, 0.4
POOL_CASES, POOL_SEED = 20_000, 4_242
VERSIONS = ("reference", "better", "overconfident", "no_theta")
BATCH = 250
_NOT_MEASURED = (math.nan, math.nan)


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
    """

    name: str
    good: bool | None
    stable_errors: float = 0.01
    canary_errors: float = 0.01
    slowness: float = 1.0
    median_s: float = MEDIAN_S
    bursts: float = 0.0


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
        burst = np.exp(case.bursts * (rng.standard_normal(releases) - case.bursts / 2.0))
        canary = rng.binomial(CALLS_PER_LOOK, share, releases)
        for arm, (calls, ratio, slowness) in enumerate(
            ((canary, case.canary_errors, case.slowness), (CALLS_PER_LOOK - canary, case.stable_errors, 1.0))
        ):
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


class _Shared:
    """The features of one block, computed once for all models."""

    features: NDArray[np.float32]

    def __call__(self, iq: NDArray[np.complex64]) -> NDArray[np.float32]:
        if len(iq) != len(self.features):
            raise ValueError("these are the features of another block")
        return self.features


def answers() -> dict[str, ProbeAnswers]:
    """Every version's answers to the pool of captures; made once and kept."""
    path = FOLDER / f"pool-{POOL_SEED}-{POOL_CASES}.npz"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **dict(_made()))
    with np.load(path) as file:
        return {
            name: ProbeAnswers(
                file[f"{name}_error_m"],
                file[f"{name}_covariance_m2"],
                file[f"{name}_inside"],
                file[f"{name}_confidence"],
            )
            for name in VERSIONS
        }


def _made() -> Iterator[tuple[str, NDArray[Any]]]:
    shared = _Shared()
    folders = prepare(Path("build/reference"), VERSIONS)
    models = {name: LocalModel(folders[name] / "model.onnx", shared) for name in VERSIONS}
    parts: dict[str, list[Estimates]] = {name: [] for name in VERSIONS}
    truth = []
    for block in blocks(POOL_SEED, POOL_CASES):
        shared.features = standard_features(block.complex_iq())
        truth.append(block.position_deg)
        for name, model in models.items():
            parts[name].append(model.estimate(block))
    for name in VERSIONS:
        found = concatenated(parts[name])
        error_m = offsets_m(found.position_deg, np.concatenate(truth))
        inside = np.stack([inside_ellipse(error_m, found.ellipses[level]) for level in LEVELS], axis=-1)
        yield f"{name}_error_m", error_m
        yield f"{name}_covariance_m2", found.covariance_m2
        yield f"{name}_inside", inside
        yield f"{name}_confidence", found.confidence


def probe(test: ProbeTest, values: F64, captures: int, releases: int, seed: int) -> int:
    """How many releases the probe set rolls back.

    Args:
        test: The policy's.
        values: [V, pool] excesses of every capture of the pool.
        captures: Size of the probe set.
        releases: How many.
        seed: Of the captures that they draw.
    """
    rng, failed = np.random.default_rng(seed), 0
    levels = test.levels(len(values))
    for start in range(0, releases, BATCH):
        drawn = rng.integers(values.shape[1], size=(min(BATCH, releases - start), captures))
        open_ = np.arange(len(drawn))
        for row, level in zip(values, levels, strict=True):
            above = row[drawn[open_]].mean(axis=1) > 0.0
            if not above.any():
                continue
            sums = Sums(row[drawn[open_[above]]], np.ones(captures))
            lows = lower_bounds(sums, t_scores(sums, test.resamples), np.full(len(sums.values), level))
            open_ = np.delete(open_, np.flatnonzero(above)[lows > 0.0])
        failed += len(drawn) - len(open_)
    return failed


PROBES = (
    ("equal", True, "reference", 700),
    ("equal", True, "reference", 2_500),
    ("better", True, "better", 700),
    ("better", True, "better", 2_500),
    ("exactly at the allowed loss", True, "boundary", 700),
    ("exactly at the allowed loss", True, "boundary", 2_500),
    ("over-confident", False, "overconfident", 700),
    ("no_theta", False, "no_theta", 700),
    ("no_theta", False, "no_theta", 1_000),
    ("no_theta", False, "no_theta", 1_500),
    ("no_theta", False, "no_theta", 2_500),
    ("no_theta, weakened to 0.035 nats", False, "no_theta_035", 700),
    ("no_theta, weakened to 0.035 nats", False, "no_theta_035", 2_500),
)
"""Name, whether good, version, captures."""


def excess_values(policy: Policy) -> dict[str, F64]:
    """[V, pool] excesses of every version, and of no_theta with its mean loss moved: to the margin, and to 0.035 nats."""
    pool, test = answers(), policy.probe_test()
    position = np.arange(POOL_CASES)

    def excesses(version: str) -> F64:
        results = ProbeResults(LEVELS, position, pool["reference"], pool[version])
        return np.stack([excess.values for excess in test.excesses(results)])

    found = {version: excesses(version) for version in VERSIONS}
    loss = found["no_theta"][0] + test.allowed_loss
    for name, target in (("boundary", test.allowed_loss), ("no_theta_035", 0.035)):
        found[name] = found["no_theta"].copy()
        found[name][0] = loss - loss.mean() + target - test.allowed_loss
    return found


def main() -> None:
    """Run both parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000)
    parser.add_argument("--part", choices=("both", "traffic", "probe"), default="both")
    options = parser.parse_args()
    policy = Policy()
    found: list[Figures] = []
    if options.part != "probe":
        found += _traffic_table(policy, options.releases)
    if options.part != "traffic":
        found += _probe_table(policy, options.releases)
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"policy": asdict(policy), "cases": [asdict(one) for one in found]}, indent=1)
    (FOLDER / f"figures-{options.part}.json").write_text(text)


def _traffic_table(policy: Policy, releases: int) -> Iterator[Figures]:
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


def _probe_table(policy: Policy, releases: int) -> Iterator[Figures]:
    print("| version | captures | rolled back | interval |")
    print("| --- | --- | --- | --- |")
    values = excess_values(policy)
    for seed, (name, good, version, captures) in enumerate(PROBES):
        test = replace(policy.probe_test(), captures=captures)
        failed = probe(test, values[version], captures, releases, seed)
        bounds = clopper_pearson(failed, releases)
        figures = Figures(
            f"{name}, {captures} captures",
            good,
            releases,
            failed,
            releases - failed,
            bounds,
            (math.nan,) * 2,
            (0.0, 0.0),
        )
        print(f"| {name} | {captures} | {failed / releases:.2%} | {_interval(figures)} |", flush=True)
        yield figures


def _interval(figures: Figures) -> str:
    low, high = figures.failed_bounds
    return f"{low:.2%} to {high:.2%}"


if __name__ == "__main__":
    start_s = time.process_time()
    main()
    print(f"{time.process_time() - start_s:.0f} s of CPU time")
