"""A release, step by step: look at the cluster, decide, do one thing, remember it.

What belongs here: doing what `next_action` decides. What does not: deciding, judging (`assess`), and how anything is
read or written (the adapters).

After every change the release is remembered in the cluster, so that a run that is killed at any moment can be taken up
by another: what was done but not yet remembered is found done, and not done again. However long nobody was at it, that
time counts for nothing: waits and evidence begin when a run takes the release up. Nothing is written without asking
first whether the lease is still held, because pre-flight and probe set take many minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from rollout.assess import MEASUREMENTS, assess
from rollout.errors import RefusedError, RejectedError, RolloutError
from rollout.evidence import EvidenceUnavailable
from rollout.measurements import Measurements
from rollout.next_action import Apply, Begin, Enter, Finish, Measure, Preflight, Stop, Wait, next_action
from rollout.probe_evidence import unanswered_captures
from rollout.registry_marks import RegistryMarks
from rollout.release import Release, Stage, StepResult
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.evidence import Evidence, Probed
    from rollout.inference_service import InferenceService
    from rollout.measurements import Look
    from rollout.next_action import Action
    from rollout.record import Record
    from rollout.registry import Registry
    from rollout.release import Event

_POLL_S = 1.0
"""Between two looks at the cluster while it is doing something."""

_PROBES = 3
"""So often the probe set is sent until both versions have answered all of it; then it is taken as it is. One request in
thousands may fail for no fault of the version; what fails three times in minutes is no accident."""

_REASONS = {
    Stage.PREFLIGHT: "ReleaseBegan",
    Stage.CANARY: "Canary",
    Stage.PROMOTING: "Promoting",
    Stage.ROLLING_BACK: "RollingBack",
    Stage.PROMOTED: "Promoted",
    Stage.ROLLED_BACK: "RolledBack",
    Stage.REFUSED: "ReleaseRefused",
}
_WARNINGS = {Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.REFUSED}


class Progress(Protocol):
    """Whoever watches a run."""

    def happened(self, event: Event) -> None:
        """The release has gone on."""
        ...

    def judged(self, release: Release, verdict: Verdict) -> None:
        """The evidence was looked at."""
        ...

    def waiting(self, release: Release, sentence: str) -> None:
        """Nothing is to be done for the moment."""
        ...

    def warned(self, sentence: str) -> None:
        """Something went wrong that does not stop the release."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        release: As it is now.
        outcome: PASS when it came as far as it was asked to; INCONCLUSIVE or ERROR when a person has to decide.
        sentence: Why.
    """

    release: Release
    outcome: Outcome
    sentence: str


@dataclass
class Steps:
    """Runs releases of one service, whose lease is held.

    Attributes:
        service: The service.
        record: Its memory.
        registry: Where aliases and tags are; None leaves them alone.
        evidence: What releases are judged by; None where nothing is judged.
        preflight: Checks a release before anything is changed; returns what it found, raises `RefusedError`.
        check: Called before every change; raises when the lease was lost.
        progress: Who watches.
        now: The clock.
        sleep: Waits.
        measurements: The last that were judged, for the report; None before.
        probed: What came of the probe set in this run; None before, and while it is to be sent again.
    """

    service: InferenceService
    record: Record
    registry: Registry | None
    evidence: Evidence | None
    preflight: Callable[[Release], str]
    check: Callable[[], None]
    progress: Progress
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    measurements: Measurements | None = None
    probed: Probed | None = None
    _looks: list[Look] = field(default_factory=list)
    _probes: int = 0

    def run(self, release: Release, until: Callable[[Release], bool] = lambda _: False) -> Ended:
        """Go on until the release is over, a person has to decide, or `until` says that it is far enough.

        Raises:
            RolloutError: The cluster or the registry failed; the release can be taken up again.
        """
        verdict: Verdict | None = None
        release = self._taken_up(release)
        while not release.stage.finished:
            if until(release):
                return Ended(release, Outcome.PASS, f"{release.challenger} is at {release.percent} %")
            action = next_action(release, verdict, self.service.observe(), self.now())
            if isinstance(action, Stop):
                self._remember(release, action.sentence)
                return Ended(release, action.outcome, action.sentence)
            if isinstance(action, Measure):
                release, verdict = self._measure(release)
                continue
            if isinstance(action, Wait):
                self.progress.waiting(release, action.sentence)
                self.sleep(_POLL_S if verdict is None else release.policy.look_every_s)
            else:
                release = self._do(release, action, verdict)
            verdict = None
        return Ended(release, Outcome.PASS, release.events[-1].sentence if release.events else str(release.stage))

    def judge(self, release: Release) -> tuple[Release, Verdict]:
        """Look at the evidence of a live step until it is decided or its time is up; the traffic stays as it is."""
        release = self._taken_up(release)
        while True:
            self.check()
            release, verdict = self._measure(release)
            if verdict.outcome is not Outcome.INCONCLUSIVE or verdict.overdue:
                return release, verdict
            self.sleep(release.policy.look_every_s)

    def _taken_up(self, release: Release) -> Release:
        """Nobody was at it since it was remembered: neither a version's readiness nor its evidence had that time."""
        return release if release.stage.finished else replace(release, step_began_at=self.now())

    def _do(self, release: Release, action: Action, verdict: Verdict | None) -> Release:
        self.check()
        match action:
            case Preflight():
                return self._checked(release)
            case Apply(model, percent, sentence):
                self.service.apply(model, percent)
                return self._remember(replace(release, step_began_at=self.now()), sentence)
            case Begin(revision, stable_revision, sentence):
                begun = replace(release, revision=revision, stable_revision=stable_revision)
                return self._remember(self._anew(begun), sentence)
            case Enter(stage, step, sentence):
                return self._enter(release, stage, step, sentence, verdict)
            case Finish(stage, sentence):
                return self._finish(release, stage, sentence)
            case _:
                raise TypeError(f"{type(action).__name__} is nothing to do")

    def _checked(self, release: Release) -> Release:
        try:
            found = self._preflight(release)
        except RefusedError as error:
            self.check()
            refused = replace(release, stage=Stage.REFUSED, reason=str(error))
            if isinstance(error, RejectedError):
                self._reject(refused)
            return self._remember(refused, str(error))
        self.check()
        self.record.forgive(release.challenger.model_digest)
        self._marks.forgive(release)
        passed = replace(release, stage=Stage.CANARY, step=0, step_began_at=self.now())
        return self._remember(passed, f"pre-flight passed: {found}")

    def _preflight(self, release: Release) -> str:
        challenger, champion = release.challenger, release.champion
        if champion is not None and challenger.model_digest == champion.model_digest:
            raise RefusedError(
                f"{challenger} is the model that serves already, {champion.model_digest}: there is nothing to compare, "
                "and a rollback would reject what it returns to"
            )
        return self.preflight(release)

    def _anew(self, release: Release) -> Release:
        """The same step, its evidence counted from now on."""
        self._looks.clear()
        return replace(release, live=True, step_began_at=self.now())

    def _measure(self, release: Release) -> tuple[Release, Verdict]:
        """Look at the evidence; the probe set comes first, because its own calls must not count."""
        if self.evidence is None:
            raise TypeError("a release without evidence cannot be judged")
        trouble = ""
        if self.probed is None:
            release, trouble = self._probe(release, self.evidence)
        verdict = self._verdict(release, self.evidence, trouble)
        self.progress.judged(release, verdict)
        return release, verdict

    def _probe(self, release: Release, evidence: Evidence) -> tuple[Release, str]:
        """Send the probe set to both versions; what is in the way of an answer, if anything is."""
        self.progress.waiting(release, "sending the probe set to both versions")
        try:
            probed = evidence.probe(release)
        except EvidenceUnavailable as error:
            return release, str(error)
        self._probes += 1
        missing = [unanswered_captures(one) for one in (probed.results.stable, probed.results.canary)]
        if any(missing) and self._probes < _PROBES:
            return self._anew(release), (
                f"the stable version left {missing[0]} captures of the probe set unanswered and the canary "
                f"{missing[1]}: it is sent again, {self._probes} of {_PROBES} times until now"
            )
        self.probed = probed
        answered = f"was sent {self._probes} times, never answered in full" if any(missing) else "was answered"
        return self._remember(self._anew(release), f"the probe set {answered}: evidence begins now"), ""

    def _verdict(self, release: Release, evidence: Evidence, trouble: str) -> Verdict:
        elapsed_s = (self.now() - release.step_began_at).total_seconds()
        live = None
        try:
            self._looks.append(evidence.look(release, elapsed_s))
            live = evidence.live(release)
        except EvidenceUnavailable as error:
            trouble = str(error)
        self.measurements = Measurements(
            tuple(self._looks),
            None if self.probed is None else self.probed.results,
            live,
            None if self.probed is None else self.probed.disagreement,
        )
        verdict = assess(self.measurements, release.policy)
        if not trouble:
            return verdict
        reason = Reason(MEASUREMENTS, Outcome.INCONCLUSIVE, None, None, trouble)
        outcome = verdict.outcome if verdict.outcome in {Outcome.FAIL, Outcome.ERROR} else Outcome.INCONCLUSIVE
        overdue = elapsed_s >= release.policy.maximum_step_s
        return replace(verdict, outcome=outcome, reasons=(*verdict.reasons, reason), overdue=overdue)

    def _enter(self, release: Release, stage: Stage, step: int, sentence: str, verdict: Verdict | None) -> Release:
        now = self.now()
        if verdict is not None:
            percent, began_at = release.policy.steps_percent[release.step], release.step_began_at
            over = StepResult(percent, began_at, now, verdict, *self._calls())
            release = replace(release, steps=(*release.steps, over))
        reason = sentence if stage is Stage.ROLLING_BACK else release.reason
        entered = replace(release, stage=stage, step=step, step_began_at=now, live=False, reason=reason)
        return self._remember(entered, sentence)

    def _calls(self) -> tuple[float, float]:
        """How many calls of canary and stable arm the last look counted."""
        if not self._looks:
            return 0.0, 0.0
        arms = self._looks[-1].canary, self._looks[-1].stable
        canary, stable = (0.0 if arm is None else arm.calls.total for arm in arms)
        return canary, stable

    def _finish(self, release: Release, stage: Stage, sentence: str) -> Release:
        if stage is Stage.ROLLED_BACK:
            self._reject(release)
            self._marks.return_alias(release)
            return self._remember(replace(release, stage=stage), sentence)
        before = self._marks.alias_before(release)
        if before.alias_before != release.alias_before:
            whose = f"version {before.alias_before}" if before.alias_before else "no version"
            release = self._remember(before, f"the alias champion moves here from {whose}")
        self._marks.move_alias(release)
        self._marks.forgive(release)
        return self._remember(replace(release, stage=stage), sentence)

    def _reject(self, release: Release) -> None:
        self.record.reject(release.challenger, release.reason)
        self._marks.reject(release)

    @property
    def _marks(self) -> RegistryMarks:
        return RegistryMarks(self.registry, self.progress.warned)

    def _remember(self, release: Release, sentence: str) -> Release:
        """Note what happened: in the record first, then where people look; raises `HeldError` without the lease."""
        self.check()
        release = release.told(self.now(), sentence)
        event = release.events[-1]
        self.record.save(release, event.at)
        self.progress.happened(event)
        share = "" if event.percent is None else f" at {event.percent} %"
        told = f"{release.challenger}{share}: {sentence}"
        try:
            self.service.tell(_REASONS[release.stage], told, warning=release.stage in _WARNINGS)
        except RolloutError as error:
            self.progress.warned(f"the event was not written: {error}")
        tags = {"release": release.release_id, "stage": f"{release.stage}{share}", "at": event.at.isoformat()}
        self._marks.tag(release, tags | {"event": sentence})
        return release
