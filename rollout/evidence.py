"""What a release asks of those who measure, and how they say that they cannot.

What belongs here: the interfaces, the values that only they exchange, and the error. What does not: Prometheus
(`prometheus`), the probe set (`probe_run`), and judging (`assess`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rollout.arrays import F64, Bools
    from rollout.measurements import Disagreement, LiveDistributions, Look, ProbeResults
    from rollout.release import Release


class EvidenceUnavailable(Exception):
    """Nothing can be measured now: the verdict is inconclusive, and the traffic stays where it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where both versions put the captures of the probe set, for a map.

    Attributes:
        truth_deg: [K,2] FP64, latitude and longitude.
        stable_deg: [K,2] FP64, where the champion puts it; NaN where it gave no answer.
        canary_deg: [K,2] FP64, where the challenger puts it; NaN where it gave no answer.
        outside: [K] whether each position lies outside of the other version's 95 % ellipse.
    """

    truth_deg: F64
    stable_deg: F64
    canary_deg: F64
    outside: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Probed:
    """What came of sending the probe set to both versions.

    Attributes:
        results: What is judged.
        disagreement: What is shown beside it.
        places: For the report's map.
    """

    results: ProbeResults
    disagreement: Disagreement
    places: Places


class Counters(Protocol):
    """What is counted of live calls."""

    def look(self, release: Release, elapsed_s: float) -> Look:
        """Both arms' counts from the step's beginning until `elapsed_s` later; raises `EvidenceUnavailable`."""
        ...

    def live(self, release: Release) -> tuple[LiveDistributions, LiveDistributions] | None:
        """What clients of both versions were told since the step began, stable first; None if nothing is to compare.

        Raises:
            EvidenceUnavailable: Nothing can be measured now.
        """
        ...


class Prober(Protocol):
    """Who sends the probe set."""

    def probe(self, release: Release) -> Probed:
        """Send it to both versions; raises `EvidenceUnavailable`.

        Its calls are counted by the transformer like any other, in batches that take longer, so it has to end before
        the step begins whose errors and latency are looked at. Asking again gives the same answers: the captures are
        the same, and so are the versions.
        """
        ...


class Evidence(Counters, Prober, Protocol):
    """Everything that a release is judged by."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """`Evidence` from one source of counts and one prober."""

    counters: Counters
    prober: Prober

    def look(self, release: Release, elapsed_s: float) -> Look:
        """See `Counters`."""
        return self.counters.look(release, elapsed_s)

    def live(self, release: Release) -> tuple[LiveDistributions, LiveDistributions] | None:
        """See `Counters`."""
        return self.counters.live(release)

    def probe(self, release: Release) -> Probed:
        """See `Prober`."""
        return self.prober.probe(release)
