"""Everything around one release: a cluster with KServe's rules, evidence, a registry, and somebody who watches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rollout.errors import RegistryError
from rollout.evidence import EvidenceUnavailable, Places, Probed
from rollout.measurements import Disagreement
from rollout.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock, FakeCluster

    from rollout.inference_service import InferenceService
    from rollout.measurements import ArmCounts, LiveDistributions, Look, ProbeResults
    from rollout.record import Record
    from rollout.release import Event, Release
    from rollout.verdict import Verdict


@dataclass
class FakeEvidence:
    """Counts that grow with the time since the step began."""

    arm: Callable[..., ArmCounts]
    results: ProbeResults
    failing: float = 0.0
    slower: float = 1.0
    away: bool = False
    probe_away: int = 0
    unanswered: int = 0
    probed: int = 0
    asked: list[float] = field(default_factory=list)

    def look(self, release: Release, elapsed_s: float) -> Look:
        """A thousand calls a second, split by the percentage."""
        if self.away:
            raise EvidenceUnavailable("Prometheus does not answer")
        from rollout.measurements import Look  # noqa: PLC0415 - otherwise only for types

        self.asked.append(elapsed_s)
        calls = round(1_000 * elapsed_s * (release.percent or 0) / 100)
        others = round(1_000 * elapsed_s) - calls
        canary = self.arm(calls, round(calls * self.failing), 0.012 * self.slower)
        return Look(elapsed_s, self.arm(others, 0), canary)

    def live(self, release: Release) -> tuple[LiveDistributions, LiveDistributions] | None:  # noqa: ARG002 - interface
        """Nothing."""
        return None

    def probe(self, release: Release) -> Probed:  # noqa: ARG002 - the interface
        """The same answers every time; the canary's last one is missing the first `unanswered` times."""
        self.probed += 1
        if self.probed <= self.probe_away:
            raise EvidenceUnavailable("the service does not answer")
        none, results = self.results.stable.error_m, self.results
        if self.probed <= self.unanswered:
            error_m = results.canary.error_m.copy()
            error_m[-1] = np.nan
            results = replace(results, canary=replace(results.canary, error_m=error_m))
        return Probed(results, Disagreement(1, 2.0, 0), Places(none, none, none, none[:, 0] > 0))


@dataclass
class FakeRegistry:
    """Aliases and tags in memory."""

    aliases: dict[str, str] = field(default_factory=lambda: {"champion": "1"})
    tags: dict[str, str] = field(default_factory=dict)
    away: bool = False

    def move_alias(self, name: str, alias: str, version: str) -> None:  # noqa: ARG002 - the interface
        """One model's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.aliases[alias] = version

    def version_of_alias(self, name: str, alias: str) -> str:  # noqa: ARG002 - the interface
        """One model's."""
        return self.aliases.get(alias, "")

    def remove_alias(self, name: str, alias: str) -> None:  # noqa: ARG002 - the interface
        """One model's."""
        del self.aliases[alias]

    def untag(self, name: str, version: str, key: str) -> None:  # noqa: ARG002 - the interface
        """One version's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.tags.pop(key, None)

    def tag(self, name: str, version: str, tags: dict[str, str]) -> None:  # noqa: ARG002 - the interface
        """One version's."""
        if self.away:
            raise RegistryError("the registry does not answer")
        self.tags |= tags


@dataclass
class Watcher:
    """Remembers what it is told."""

    events: list[Event] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def happened(self, event: Event) -> None:
        """See `Progress`."""
        self.events.append(event)

    def judged(self, release: Release, verdict: Verdict) -> None:  # noqa: ARG002 - the interface
        """See `Progress`."""
        self.verdicts.append(verdict)

    def waiting(self, release: Release, sentence: str) -> None:
        """See `Progress`."""

    def warned(self, sentence: str) -> None:
        """See `Progress`."""
        self.warnings.append(sentence)


@dataclass
class World:
    """Everything around one release."""

    cluster: FakeCluster
    service: InferenceService
    record: Record
    clock: Clock
    evidence: FakeEvidence
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    watcher: Watcher = field(default_factory=Watcher)
    preflight: Callable[[Release], str] = lambda _: "all is well"
    check: Callable[[], None] = lambda: None

    def steps(self) -> Steps:
        """A new run, which remembers nothing of an earlier one."""
        return Steps(
            self.service,
            self.record,
            self.registry,  # type: ignore[arg-type]  # the part of it that is used
            self.evidence,
            self.preflight,
            self.check,
            self.watcher,
            self.clock,
            self.clock.sleep,
        )

    def resumed(self) -> Release:
        """The release as it was remembered."""
        found = self.record.release()
        assert found is not None
        return found


@pytest.fixture
def world(
    cluster: FakeCluster,
    service: InferenceService,
    record: Record,
    clock: Clock,
    arm: Callable[..., ArmCounts],
    probe: Callable[..., ProbeResults],
) -> World:
    """A good challenger unless a test says otherwise."""
    return World(cluster, service, record, clock, FakeEvidence(arm, probe(500)))
