"""What the probe set does to good and to bad versions: thousands of simulated releases a row.

`python bench/probe_study.py [--releases 10000]` takes about four minutes of one core; it prints the table of
docs/verdict.md and writes the figures to build/release_study/probe.json.

The reference room's variants answer 20,000 simulated captures once, and each release draws its probe set from these,
with replacement. It is judged by the functions that `rollout.assess` calls.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from release_study import FOLDER, clopper_pearson

from reference.estimates import LEVELS, LocalModel, concatenated, standard_features
from reference.geometry import offsets_m
from reference.metrics import inside_ellipse
from reference.simulate import blocks
from reference.variants import prepare
from rollout.measurements import ProbeAnswers, ProbeResults
from rollout.policy import Policy
from rollout.resampling import Sums, lower_bounds, t_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reference.estimates import Estimates
    from rollout.probe_evidence import ProbeTest

    F64 = NDArray[np.float64]

POOL_CASES, POOL_SEED = 20_000, 771
VERSIONS = ("reference", "better", "overconfident", "no_theta")
BATCH = 250


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
    ("equal", "reference", 700),
    ("equal", "reference", 2_500),
    ("better", "better", 700),
    ("better", "better", 2_500),
    ("exactly at the allowed loss", "boundary", 700),
    ("exactly at the allowed loss", "boundary", 2_500),
    ("over-confident", "overconfident", 700),
    ("no_theta", "no_theta", 700),
    ("no_theta", "no_theta", 1_000),
    ("no_theta", "no_theta", 1_500),
    ("no_theta", "no_theta", 2_500),
    ("no_theta, weakened to 0.035 nats", "no_theta_035", 700),
    ("no_theta, weakened to 0.035 nats", "no_theta_035", 2_500),
)
"""Name, version, captures."""


def excess_values(policy: Policy) -> dict[str, F64]:
    """[V, pool] excesses of every version, and of no_theta with its mean loss moved to the margin and to 0.035."""
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
    """Judge every row of the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000)
    releases, policy = parser.parse_args().releases, Policy()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = {"policy": asdict(policy), "cases": list(_table(policy, releases))}
    (FOLDER / "probe.json").write_text(json.dumps(found, indent=1))


def _table(policy: Policy, releases: int) -> Iterator[dict[str, float | str]]:
    print("| version | captures | rolled back | interval |")
    print("| --- | --- | --- | --- |")
    values = excess_values(policy)
    for seed, (name, version, captures) in enumerate(PROBES):
        test = replace(policy.probe_test(), captures=captures)
        failed = probe(test, values[version], captures, releases, seed)
        low, high = clopper_pearson(failed, releases)
        print(f"| {name} | {captures} | {failed / releases:.2%} | {low:.2%} to {high:.2%} |", flush=True)
        yield {"version": name, "captures": captures, "failed": failed, "releases": releases, "low": low, "high": high}


if __name__ == "__main__":
    start_s = time.process_time()
    main()
    print(f"{time.process_time() - start_s:.0f} s of CPU time")
