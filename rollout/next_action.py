"""What a release does next: a decision from its own state, the cluster's, and the last verdict.

What belongs here: the decision, which is the same in the middle of a run and after an interruption. What does not:
doing it (`steps`). Every action may be repeated: it either changes nothing the second time or is not chosen again.

A rollback has three stations, because the newest revision is the one that KServe calls the canary, and a percentage
that is taken away gives it everything. With 0 % the bad revision loses its requests within a second; then the good
template is made the newest revision, still at 0 %; only when it is ready it gets everything, and nothing names the
bad model any more. A version that was promoted already is KServe's stable side: there the first station has nothing to
take away, and is left out.

Every wait has an end, `ready_within_s` after `step_began_at`: after the last change of the service, or since this run
took the release up. Then a canary goes back, a rollback goes on to its next station, and where neither would help a
person is told what to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.observed import ALL_PERCENT
from rollout.release import Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from datetime import datetime

    from rollout.observed import Observed
    from rollout.release import ModelVersion, Release
    from rollout.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Preflight:
    """Check everything that can be checked before the service is touched."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the service name this version at this percentage."""

    model: ModelVersion
    percent: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Look at the cluster again in a moment."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Begin:
    """The step is live: its evidence counts from now on."""

    revision: str
    stable_revision: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Measure:
    """Look at the evidence, and judge it."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Go on to this stage and step."""

    stage: Stage
    step: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The release is over: note it everywhere."""

    stage: Stage
    sentence: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A person has to decide; traffic stays where it is."""

    outcome: Outcome
    sentence: str


Action = Preflight | Apply | Wait | Begin | Measure | Enter | Finish | Stop


def next_action(release: Release, verdict: Verdict | None, observed: Observed, now: datetime) -> Action:
    """Decide.

    Args:
        release: As it was written last.
        verdict: Of the evidence since the last action; None where nothing was judged since.
        observed: The service as it is now.
        now: With a time zone.

    Raises:
        ValueError: The release is over.
    """
    match release.stage:
        case Stage.PREFLIGHT:
            return Preflight()
        case Stage.CANARY:
            return _canary(release, verdict, observed, now)
        case Stage.PROMOTING:
            return _promoting(release, observed, now)
        case Stage.ROLLING_BACK:
            return _rolling_back(release, observed, now)
        case _:
            raise ValueError(f"release {release.release_id} is over: {release.stage}")


def _canary(release: Release, verdict: Verdict | None, observed: Observed, now: datetime) -> Action:
    percent = release.policy.steps_percent[release.step]
    if changed := _changed_by_others(release, observed, percent):
        return Stop(Outcome.ERROR, changed)
    if not observed.names(release.challenger) or observed.percent != percent:
        return Apply(release.challenger, percent, f"{release.challenger} at {percent} %")
    if observed.arrived and observed.failure:
        return _back(release, f"its revision {observed.newest} does not run: {observed.failure}")
    if not release.live or (observed.live and observed.newest != release.revision):
        return _not_live_yet(release, observed, now)
    return Measure() if verdict is None else _judged(release, verdict)


def _changed_by_others(release: Release, observed: Observed, percent: int) -> str:
    """Whether somebody else has changed what the release had set: a person who steps in is not overruled."""
    if release.live and not observed.names(release.challenger):
        return f"the service names {observed.storage_uri} now: somebody else has changed it"
    if release.live and observed.percent != percent:
        return f"the percentage is {observed.percent} now and was {percent}: somebody else has changed it"
    if any(observed.names(model) for model in (release.challenger, release.champion) if model is not None):
        return ""
    return f"the service names {observed.storage_uri}, neither the challenger nor the champion of this release"


def _not_live_yet(release: Release, observed: Observed, now: datetime) -> Action:
    if observed.live:
        again = "a new template: evidence begins anew, " if release.live else ""
        sentence = f"{again}{observed.newest} gets {observed.share(observed.newest)} % beside {observed.rolled_out}"
        return Begin(observed.newest, observed.rolled_out, sentence)
    if _late(release, now):
        return _back(release, f"not ready within {release.policy.ready_within_s:g} s{_because(observed.complaint)}")
    return Wait(f"waiting for {release.challenger} to be ready")


def _late(release: Release, now: datetime) -> bool:
    """Whether what was changed last should be ready by now."""
    return (now - release.step_began_at).total_seconds() > release.policy.ready_within_s


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _judged(release: Release, verdict: Verdict) -> Action:
    reason = verdict.reasons[0].sentence if verdict.reasons else "no reason given"
    match verdict.outcome:
        case Outcome.FAIL:
            failed = [one for one in verdict.reasons if one.outcome is Outcome.FAIL]
            return _back(release, "; ".join(f"{one.signal}: {one.sentence}" for one in failed))
        case Outcome.ERROR:
            return Stop(Outcome.ERROR, f"the evidence contradicts itself: {reason}")
        case Outcome.INCONCLUSIVE if verdict.overdue:
            return Stop(Outcome.INCONCLUSIVE, f"not decided within {release.policy.maximum_step_s:g} s: {reason}")
        case Outcome.INCONCLUSIVE:
            return Wait(reason)
        case Outcome.PASS:
            return _passed(release)


def _passed(release: Release) -> Action:
    steps = release.policy.steps_percent
    percent = steps[release.step]
    if release.step + 1 < len(steps):
        return Enter(Stage.CANARY, release.step + 1, f"passed at {percent} %, on to {steps[release.step + 1]} %")
    return Enter(Stage.PROMOTING, release.step, f"passed at {percent} %, on to 100 %")


def _back(release: Release, reason: str) -> Action:
    return Enter(Stage.ROLLING_BACK, release.step, reason)


def _promoting(release: Release, observed: Observed, now: datetime) -> Action:
    if not observed.names(release.challenger):
        return Stop(Outcome.ERROR, f"the service names {observed.storage_uri} now: somebody else has changed it")
    if observed.percent != ALL_PERCENT:
        return Apply(release.challenger, ALL_PERCENT, f"{release.challenger} at 100 %")
    if not observed.settled:
        return _everything(release, release.challenger, observed, now)
    return Finish(Stage.PROMOTED, f"{release.challenger} serves everything")


def _rolling_back(release: Release, observed: Observed, now: datetime) -> Action:
    champion = release.champion
    if champion is None:
        return Stop(Outcome.ERROR, "there is no earlier version to return to")
    if observed.names(champion):
        return _returning(release, champion, observed, now)
    if not observed.names(release.challenger):
        return Stop(Outcome.ERROR, f"the service names {observed.storage_uri} now: somebody else has changed it")
    return _leaving(release, champion, observed, now)


def _leaving(release: Release, champion: ModelVersion, observed: Observed, now: datetime) -> Action:
    if observed.newest != observed.rolled_out:
        if observed.percent != 0:
            return Apply(release.challenger, 0, f"{release.challenger} gets no more requests")
        # While a revision's pods fail, Knative's status stays as it was, for more than a minute. Where it says nothing
        # else for longer, the good template comes all the same: it takes nothing from the other revisions.
        if observed.share(observed.newest) > 0 and not observed.failure and not _late(release, now):
            return Wait(f"waiting for {observed.newest} to lose its requests")
    return Apply(champion, 0, f"{champion} as the newest revision, at 0 %")


def _returning(release: Release, champion: ModelVersion, observed: Observed, now: datetime) -> Action:
    if observed.percent == 0:
        if observed.live:
            return Apply(champion, ALL_PERCENT, f"{champion} is ready and gets everything")
        if _late(release, now):
            why = _because(observed.failure or observed.complaint)
            sentence = f"{champion} is not ready within {release.policy.ready_within_s:g} s; its older revision serves"
            return Stop(Outcome.ERROR, f"{sentence}{why}. {_look_at(observed)}")
        return Wait(f"waiting for {champion} to be ready")
    if not observed.settled:
        return _everything(release, champion, observed, now)
    return Finish(Stage.ROLLED_BACK, f"{champion} serves everything again")


def _everything(release: Release, model: ModelVersion, observed: Observed, now: datetime) -> Action:
    """Of a model that the service names at 100 %, and that does not have everything yet."""
    if not _late(release, now):
        return Wait(f"waiting for {model} to get everything")
    why = _because(observed.failure or observed.complaint)
    sentence = f"{model} does not get everything within {release.policy.ready_within_s:g} s of being given it{why}"
    return Stop(Outcome.ERROR, f"{sentence}. {_look_at(observed)}")


def _look_at(observed: Observed) -> str:
    revision = f" of revision {observed.newest}" if observed.newest else ""
    return f"Look at the pods and conditions{revision} and at the InferenceService's; then give the same command again"
