"""What a release is allowed to do, each setting with its meaning, its unit and the reason for its default.

What belongs here: the policy, reading it from text, and how the error probabilities are shared out. What does not:
tests.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from rollout.error_evidence import ErrorTest
from rollout.latency_evidence import LatencyTest
from rollout.probe_evidence import ProbeTest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ERRORS_SHARE, LATENCY_SHARE, PROBE_SHARE = 0.3, 0.3, 0.4
"""Parts of alpha. The probe set has the largest, because it is looked at once and cannot wait for more evidence."""

_WHOLE = 100

_SIGNALS = 14
"""Sides of the probe set's signals: log-likelihood, RMS error, NEES twice, and coverage twice at five levels."""


class PolicyError(ValueError):
    """A policy that cannot be used; the message lists everything that is wrong with it, one a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a canary is judged."""

    steps_percent: tuple[int, ...] = (5, 25, 50)
    """The canary's share of the requests at each step. 5 % first, so that what is worst is met by the fewest."""

    alpha: float = 0.01
    """Probability of rolling back a version that is within all allowed margins, over all signals and steps together."""

    beta: float = 0.01
    """Probability of passing errors or latency that are unacceptable. Not shared out: every step has to be passed."""

    allowed_error_increase: float = 0.005
    """Failed when surely more errors than this above the stable arm's ratio: half a point."""

    unacceptable_error_increase: float = 0.02
    """Passed when surely less than this above. Between both margins a version may pass or wait."""

    latency_quantile: float = 0.95
    """The quantile that is compared; the service's objective is for this one."""

    allowed_latency_ratio: float = 1.25
    """Failed when surely slower than this times the stable arm. Buckets do not resolve much less."""

    unacceptable_latency_ratio: float = 1.75
    """Passed when surely faster than this times the stable arm; below 2, so that twice as slow never passes."""

    probe_captures: int = 2_500
    """Smallest probe set. At this size ellipses without orientation, which cost 0.035 nats a capture and keep their
    coverage, are caught more than 99 times in 100; 700 captures would miss too many (docs/verdict.md)."""

    allowed_log_likelihood_loss: float = 0.01
    """In nats per capture: likelihoods 1 % lower. A quarter of what dropping the orientation of the ellipses costs."""

    allowed_rms_ratio: float = 1.05
    """Of the canary's RMS position error to the stable one's."""

    nees_lowest: float = 1.6
    """Lowest mean NEES; 2 is honest. Sigmas 12 % too large give 1.6."""

    nees_highest: float = 2.5
    """Highest mean NEES. Sigmas 11 % too small give 2.5."""

    coverage_tolerance: float = 0.03
    """Largest distance of each ellipse's coverage from its level: three standard errors of 50 % on 2,500 captures."""

    probe_resamples: int = 9_999
    """Of the bootstrap: enough for the smallest of its error probabilities."""

    minimum_calls: int = 200
    """Calls of the canary, and as many durations, before a step may pass. Failing needs no minimum."""

    minimum_step_s: float = 120.0
    """Shortest step in seconds: four looks, so that what shows only after a while is given one."""

    maximum_step_s: float = 7_200.0
    """Longest step in seconds; then the verdict says that waiting on is no use."""

    ready_within_s: float = 300.0
    """Longest time in seconds until a revision is ready, or the release is rolled back: room for pulling an image, and
    half of Knative's own 600 s."""

    look_every_s: float = 30.0
    """Seconds between two looks at errors and latency: two scrapes at the usual 15 s. Looking costs no certainty."""

    def error_test(self) -> ErrorTest:
        """The test of one step's errors."""
        return ErrorTest(
            self.allowed_error_increase,
            self.unacceptable_error_increase,
            alpha=self.alpha * ERRORS_SHARE / len(self.steps_percent),
            beta=self.beta,
        )

    def latency_test(self) -> LatencyTest:
        """The test of one step's durations."""
        return LatencyTest(
            self.latency_quantile,
            self.allowed_latency_ratio,
            self.unacceptable_latency_ratio,
            alpha=self.alpha * LATENCY_SHARE / len(self.steps_percent),
            beta=self.beta,
        )

    def probe_test(self) -> ProbeTest:
        """The only test of the probe set."""
        return ProbeTest(
            self.probe_captures,
            self.allowed_log_likelihood_loss,
            self.allowed_rms_ratio,
            (self.nees_lowest, self.nees_highest),
            self.coverage_tolerance,
            alpha=self.alpha * PROBE_SHARE,
            resamples=self.probe_resamples,
        )


_RANGES: Mapping[str, tuple[float, float]] = {
    "alpha": (1e-6, 0.2),
    "beta": (1e-6, 0.2),
    "allowed_error_increase": (0.0, 0.5),
    "unacceptable_error_increase": (0.0, 1.0),
    "latency_quantile": (0.01, 0.999),
    "allowed_latency_ratio": (1.0, 100.0),
    "unacceptable_latency_ratio": (1.0, 1_000.0),
    "probe_captures": (100, 1_000_000),
    "allowed_log_likelihood_loss": (0.0, 10.0),
    "allowed_rms_ratio": (1.0, 100.0),
    "nees_lowest": (0.0, 2.0),
    "nees_highest": (2.0, 100.0),
    "coverage_tolerance": (0.0, 0.5),
    "probe_resamples": (999, 100_000),
    "minimum_calls": (1, 10_000_000),
    "minimum_step_s": (0.0, 86_400.0),
    "maximum_step_s": (1.0, 2_592_000.0),
    "ready_within_s": (1.0, 3_600.0),
    "look_every_s": (1.0, 3_600.0),
}
"""What each number may be, both ends included."""

_ORDERED = (
    ("allowed_error_increase", "unacceptable_error_increase"),
    ("allowed_latency_ratio", "unacceptable_latency_ratio"),
    ("minimum_step_s", "maximum_step_s"),
)
"""Pairs of which the first has to be smaller."""


def policy_from_toml(text: str) -> Policy:
    """Read a policy; what is not given has its default. Raises `PolicyError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"not TOML: {error}") from error
    return _policy(document)


def policy_from_json(text: str) -> Policy:
    """Read a policy; what is not given has its default. Raises `PolicyError`."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise PolicyError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise PolicyError("not a JSON object")
    return _policy(document)


def _policy(document: Mapping[str, object]) -> Policy:
    known = {field.name: field for field in fields(Policy)}
    problems = [f"unknown setting '{name}'" for name in document if name not in known]
    values: dict[str, tuple[int, ...] | int | float] = {}
    for name, value in document.items():
        if name not in known:
            continue
        try:
            values[name] = _steps(value) if name == "steps_percent" else _number(name, value)
        except PolicyError as error:
            problems.append(str(error))
    if problems:
        raise PolicyError("\n".join(problems))
    policy = Policy(**values)  # type: ignore[arg-type]  # each value was checked against its own field above
    problems = [*_out_of_order(policy), *_too_few_resamples(policy)]
    if problems:
        raise PolicyError("\n".join(problems))
    return policy


def _steps(value: object) -> tuple[int, ...]:
    steps = [step for step in value if type(step) is int and 0 < step < _WHOLE] if isinstance(value, list) else []
    if not steps or steps != value or sorted(set(steps)) != steps:
        raise PolicyError("steps_percent is a list of growing whole numbers from 1 to 99")
    return tuple(steps)


def _number(name: str, value: object) -> int | float:
    lowest, highest = _RANGES[name]
    whole = isinstance(getattr(Policy(), name), int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise PolicyError(f"{name} is a {'whole number' if whole else 'number'}, not {value!r}")
    if not lowest <= value <= highest:
        raise PolicyError(f"{name} is {value}, and has to be from {lowest:g} to {highest:g}")
    return value if whole else float(value)


def _out_of_order(policy: Policy) -> Iterator[str]:
    for smaller, larger in _ORDERED:
        if getattr(policy, smaller) >= getattr(policy, larger):
            yield f"{smaller} has to be below {larger}"


def _too_few_resamples(policy: Policy) -> Iterator[str]:
    smallest = float(policy.probe_test().levels(_SIGNALS).min())
    if smallest * (policy.probe_resamples + 1) < 1.0:
        yield f"probe_resamples has to be at least {round(1.0 / smallest)} for this alpha"
