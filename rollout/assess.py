"""From measurements and a policy to a verdict: the whole judgement, without any I/O.

What belongs here: putting the signals together. What does not: their statistics, and what is done with the verdict.

    contradictory measurements          error: nothing that follows from them can be trusted
    one signal surely worse             fail, whatever the others say
    no data, NaN, an arm missing        inconclusive, with the reason
    too early, or not yet sure          inconclusive; `overdue` once the policy's time is up
    every signal surely acceptable      pass

Alpha, the probability that a version within the margins is ever rolled back, is shared out by Bonferroni's
inequality: over the three signals by the policy's shares, and for errors and latency evenly over the steps. Within a
step both are confidence sequences, so that looking every 30 s costs nothing more. The probe set is tested once a
release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout import error_evidence, latency_evidence, probe_evidence
from rollout.live_evidence import notes
from rollout.measurements import contradictions, unknown
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.measurements import ArmCounts, Look, Measurements, ProbeResults
    from rollout.policy import Policy

MEASUREMENTS = "measurements"
WAITING = "waiting"

_ORDER = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
"""The first of these that a reason has is the verdict's."""


def assess(measurements: Measurements, policy: Policy) -> Verdict:
    """Judge one step of a release by everything that is known at its latest look."""
    found = tuple(_contradictory(measurements)) or tuple(_reasons(measurements, policy))
    reasons = tuple(sorted(found, key=lambda reason: _ORDER.index(reason.outcome)))
    elapsed_s = measurements.looks[-1].elapsed_s if measurements.looks else 0.0
    return Verdict(reasons[0].outcome, reasons, notes(measurements), overdue=elapsed_s >= policy.maximum_step_s)


def _contradictory(measurements: Measurements) -> Iterator[Reason]:
    for sentence in contradictions(measurements.looks):
        yield Reason(MEASUREMENTS, Outcome.ERROR, None, None, sentence)
    probe = measurements.probe
    if probe is not None and not _fits(probe):
        yield Reason(
            MEASUREMENTS, Outcome.ERROR, None, None, "the two versions' probe results are not of the same captures"
        )


def _fits(probe: ProbeResults) -> bool:
    expected = (len(probe.position), len(probe.levels))
    return all(
        len(answers.error_m) == len(answers.covariance_m2) == len(answers.confidence) == expected[0]
        and answers.inside.shape == expected
        for answers in (probe.stable, probe.canary)
    )


def _reasons(measurements: Measurements, policy: Policy) -> Iterator[Reason]:
    yield from _of_looks(measurements.looks, policy)
    if measurements.probe is None:
        yield _open(probe_evidence.SIGNAL, "the probe set has not been run")
    else:
        yield from policy.probe_test().judge(measurements.probe)


def _of_looks(looks: tuple[Look, ...], policy: Policy) -> Iterator[Reason]:
    if not looks:
        yield _open(MEASUREMENTS, "nothing has been measured yet")
        return
    look = looks[-1]
    gaps = unknown(look)
    if look.stable is None or look.canary is None or gaps:
        for gap in gaps:
            yield _open(MEASUREMENTS, gap)
        return
    yield from _of_counts(look.stable, look.canary, policy)
    if look.elapsed_s < policy.minimum_step_s:
        sentence = f"the step has lasted {look.elapsed_s:g} s of at least {policy.minimum_step_s:g} s"
        yield Reason(WAITING, Outcome.INCONCLUSIVE, look.elapsed_s, policy.minimum_step_s, sentence)


def _of_counts(stable: ArmCounts, canary: ArmCounts, policy: Policy) -> Iterator[Reason]:
    if canary.latency_s.bounds != stable.latency_s.bounds:
        yield Reason(MEASUREMENTS, Outcome.ERROR, None, None, "the arms' latency buckets have different bounds")
        return
    yield policy.error_test().judge(canary.calls, stable.calls)
    yield policy.latency_test().judge(canary.latency_s, stable.latency_s)
    for signal, count in (
        (error_evidence.SIGNAL, canary.calls.total),
        (latency_evidence.SIGNAL, canary.latency_s.total),
    ):
        if count < policy.minimum_calls:
            sentence = f"{count:g} of the canary's calls are counted, and {policy.minimum_calls} are needed to pass"
            yield Reason(signal, Outcome.INCONCLUSIVE, count, float(policy.minimum_calls), sentence)


def _open(signal: str, sentence: str) -> Reason:
    return Reason(signal, Outcome.INCONCLUSIVE, None, None, sentence)
