"""One evaluation: captures, answers, the exact Bayes bound, and a report.

What belongs here: putting the other modules together, and the report. What does not: statistics (`metrics`).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference import metrics
from reference.bayes import Posterior, crb_drms_m
from reference.estimates import Estimates, concatenated
from reference.features import band_powers_mw
from reference.geometry import offsets_m
from reference.network import CONFIDENT_M
from reference.pooling import selection
from reference.simulate import BLOCK_CASES, FRAME, Captures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reference.arrays import F64
    from reference.client import Service
    from reference.estimates import LocalModel
    from reference.metrics import Interval, ReliabilityBin


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """K cases with answers: what every figure is computed from.

    Attributes:
        error_m: [K,2] east and north of the truth as seen from the answer.
        bayes_error_m: [K,2] the same for the exact posterior mean.
        crb_m: [K] the Cramér-Rao bound on the RMS error of an unbiased estimate, at each truth.
        estimates: The answers.
    """

    error_m: F64
    bayes_error_m: F64
    crb_m: F64
    estimates: Estimates

    def log_likelihoods(self) -> F64:
        """The answers' Gaussian log-likelihood per case."""
        return metrics.log_likelihoods(self.error_m, self.estimates.covariance_m2)


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one evaluation."""

    cases: int
    rms_m: Interval
    bayes_rms_m: Interval
    crb_rms_m: float
    rms_to_bayes: float
    median_m: float
    coverage: dict[str, Interval]
    nees: Interval
    log_likelihood: Interval
    reliability: tuple[ReliabilityBin, ...]

    def as_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def as_text(self) -> str:
        """The report for people."""
        lines = [
            f"cases           {self.cases}",
            f"RMS error       {self.rms_m} m",
            f"exact Bayes     {self.bayes_rms_m} m   ratio {self.rms_to_bayes:.4f}",
            f"Cramér-Rao      {self.crb_rms_m:.0f} m   (unbiased estimates, without the prior box)",
            f"median error    {self.median_m:.0f} m",
            f"NEES            {self.nees}   (2 is honest)",
            f"log-likelihood  {self.log_likelihood} per case",
        ]
        lines += [f"ellipse {level:>5}   holds {interval}" for level, interval in self.coverage.items()]
        lines += [
            f"confidence {row.low:.1f}-{row.high:.1f}  claims {row.claimed:.3f}, true {row.observed:.3f} ({row.count})"
            for row in self.reliability
        ]
        return "\n".join(lines)


def report(judged: Judged) -> Report:
    """All figures."""
    distance_m = np.hypot(*judged.error_m.T)
    estimates = judged.estimates
    own, bayes = metrics.rms(judged.error_m), metrics.rms(judged.bayes_error_m)
    return Report(
        cases=len(distance_m),
        rms_m=own,
        bayes_rms_m=bayes,
        crb_rms_m=float(np.sqrt(np.mean(judged.crb_m**2))),
        rms_to_bayes=own.value / bayes.value,
        median_m=float(np.median(distance_m)),
        coverage={
            f"{level:g}": metrics.share(metrics.inside_ellipse(judged.error_m, ellipse))
            for level, ellipse in estimates.ellipses.items()
        },
        nees=metrics.nees(judged.error_m, estimates.covariance_m2),
        log_likelihood=metrics.mean(judged.log_likelihoods()),
        reliability=metrics.reliability(estimates.confidence, distance_m < CONFIDENT_M),
    )


def in_blocks(captures: Captures) -> Iterator[Captures]:
    """Captures that are in memory, in blocks of the simulator's size."""
    for start in range(0, len(captures), BLOCK_CASES):
        part = slice(start, start + BLOCK_CASES)
        yield Captures(captures.iq[part], captures.position_deg[part])


def judge_locally(model: LocalModel, blocks: Iterable[Captures]) -> Judged:
    """Answers of the model in this process."""
    posterior = Posterior()
    return _joined([_judged(block, model.estimate(block), posterior) for block in blocks])


async def judge_service(service: Service, blocks: Iterator[Captures]) -> Judged:
    """Answers of a running service; the next block is simulated while the service works on this one.

    Raises:
        ServiceFailed: As the client says.
    """
    posterior, parts = Posterior(), []
    block = await asyncio.to_thread(next, blocks, None)
    while block is not None:
        answers = asyncio.create_task(service.estimate(block))
        following = asyncio.to_thread(next, blocks, None)
        estimates, upcoming = await asyncio.gather(answers, following)
        parts.append(await asyncio.to_thread(_judged, block, estimates, posterior))
        block = upcoming
    return _joined(parts)


def _judged(block: Captures, estimates: Estimates, posterior: Posterior) -> Judged:
    inband = selection()[:, 0].astype(np.float32)
    power_mw = band_powers_mw(block.complex_iq()).mean(axis=-2) @ inband
    bayes_deg = FRAME.to_degrees(posterior.mean_m(power_mw))
    truth = block.position_deg
    crb_m = crb_drms_m(FRAME.to_plane(truth), posterior.spread_std_db)
    return Judged(offsets_m(estimates.position_deg, truth), offsets_m(bayes_deg, truth), crb_m, estimates)


def _joined(parts: list[Judged]) -> Judged:
    return Judged(
        np.concatenate([part.error_m for part in parts]),
        np.concatenate([part.bayes_error_m for part in parts]),
        np.concatenate([part.crb_m for part in parts]),
        concatenated([part.estimates for part in parts]),
    )
