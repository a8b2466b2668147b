"""One release of a model version as a value, and its JSON text.

What belongs here: what is known of a release between two looks at it, and how that survives an interruption. What does
not: where the text is kept (`record`), and what to do next (`next_action`).

The text stays below `MAXIMUM_BYTES`, so that it can be read with kubectl and fits beside others in one object (etcd
takes 1.5 MiB a request). Of both versions only so much of signature and metrics is kept as `_LONGEST` says: the
registry has all of it. Of the rest the oldest events go first, then the notes, then the reasons of steps that were
passed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum, StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rollout.policy import Policy, policy_from_json
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAXIMUM_BYTES = 16 * 1024
_LONGEST = 1024
"""Bytes of a version's signature, which is kept whole or not at all, and of its metrics, of which the first are."""

_FEWEST_EVENTS = 5


class ReleaseError(ValueError):
    """A text that is no release."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a registered model.

    Attributes:
        name: The registered model's.
        version: The registry's number for it, as text.
        storage_uri: Where KServe downloads it from.
        model_digest: "sha256:HEX" of its file; empty where a service was installed without one.
        contract_digest: "sha256:HEX" of its contract; empty where it is not known.
        signature: The registry's, as JSON text; empty where the version has none.
        metrics: Of its training, name and value.
        run_id: Of its training; empty where it is not known.
    """

    name: str
    version: str
    storage_uri: str
    model_digest: str
    contract_digest: str = ""
    signature: str = ""
    metrics: tuple[tuple[str, float], ...] = ()
    run_id: str = ""

    def __str__(self) -> str:
        """Name and version, for sentences."""
        return f"{self.name} version {self.version or '?'}"


class Stage(StrEnum):
    """Where a release is."""

    PREFLIGHT = "preflight"
    CANARY = "canary"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling-back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    """Pre-flight said no: nothing was changed."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self in {Stage.PROMOTED, Stage.ROLLED_BACK, Stage.REFUSED}


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and when.

    Attributes:
        at: With a time zone.
        stage: The release's at that moment.
        percent: The canary's share; None where it has none.
        sentence: For people.
    """

    at: datetime
    stage: Stage
    percent: int | None
    sentence: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of one step.

    Attributes:
        percent: The canary's share.
        began_at: When its evidence began.
        ended_at: When it was decided.
        verdict: The last one.
        canary_calls: Counted by then.
        stable_calls: Counted by then.
    """

    percent: int
    began_at: datetime
    ended_at: datetime
    verdict: Verdict
    canary_calls: float
    stable_calls: float


@dataclass(frozen=True, slots=True)
class Release:
    """One release, from its beginning to its end.

    Attributes:
        release_id: Unique on its service.
        namespace: Of the InferenceService.
        service: Its name.
        challenger: The version that is released.
        champion: The version that served before, to which a rollback returns; None where nothing served.
        policy: What the challenger is held to.
        stage: Where the release is.
        step: Index into the policy's steps.
        began_at: When it began.
        step_began_at: When the service was changed last, or a run has taken the release up since; from when evidence
            counts, since then.
        live: Whether the step's percentage is really routed, so that evidence counts.
        events: What happened, oldest first.
        steps: The steps that are over.
        revision: The canary's Knative revision; empty before it is live.
        stable_revision: The champion's; empty before the canary is live.
        reason: Why the release is rolled back or was refused; empty otherwise.
        alias_before: The version that the alias of the champion stood for before it was moved here; empty if it stood
            for none, None if it was not moved.
    """

    release_id: str
    namespace: str
    service: str
    challenger: ModelVersion
    champion: ModelVersion | None
    policy: Policy
    stage: Stage
    step: int
    began_at: datetime
    step_began_at: datetime
    live: bool = False
    events: tuple[Event, ...] = ()
    steps: tuple[StepResult, ...] = ()
    revision: str = ""
    stable_revision: str = ""
    reason: str = ""
    alias_before: str | None = None

    @property
    def percent(self) -> int | None:
        """The canary's share at this stage; None where it has none."""
        if self.stage is Stage.CANARY:
            return self.policy.steps_percent[self.step]
        return {Stage.PROMOTING: 100, Stage.PROMOTED: 100, Stage.ROLLING_BACK: 0}.get(self.stage)

    def told(self, at: datetime, sentence: str) -> Release:
        """The same release with one more event."""
        return replace(self, events=(*self.events, Event(at, self.stage, self.percent, sentence)))


def release_to_json(release: Release) -> str:
    """The release as JSON text of at most `MAXIMUM_BYTES`; of too long a history the oldest goes first.

    Raises:
        ReleaseError: It does not fit, or holds a number that JSON has no form for.
    """
    champion = None if release.champion is None else _brief(release.champion)
    release, text = replace(release, challenger=_brief(release.challenger), champion=champion), ""
    for shorter in _ever_shorter(release):
        text = _text(shorter)
        if len(text.encode()) <= MAXIMUM_BYTES:
            return text
    raise ReleaseError(f"a release of {len(text.encode())} bytes does not fit into {MAXIMUM_BYTES}")


def release_from_json(text: str) -> Release:
    """The release of a JSON text; raises `ReleaseError`."""
    try:
        return _release(json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"not a release: {error!r}") from error


def _text(release: Release) -> str:
    try:
        return json.dumps(asdict(release), default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ReleaseError(f"release {release.release_id} cannot be written: {error}") from error


def _brief(model: ModelVersion) -> ModelVersion:
    signature = model.signature if len(json.dumps(model.signature)) <= _LONGEST else ""
    sizes = accumulate(len(json.dumps(metric)) for metric in model.metrics)
    metrics = tuple(metric for metric, size in zip(model.metrics, sizes, strict=True) if size <= _LONGEST)
    return replace(model, signature=signature, metrics=metrics)


def _ever_shorter(release: Release) -> Iterator[Release]:
    yield release
    kept = len(release.events)
    while (kept := kept * 9 // 10) > _FEWEST_EVENTS:
        yield replace(release, events=release.events[-kept:])
    release = replace(release, events=release.events[-_FEWEST_EVENTS:])
    for change in (_without_notes, _without_passes):
        release = replace(release, steps=tuple(replace(one, verdict=change(one.verdict)) for one in release.steps))
        yield release


def _without_notes(verdict: Verdict) -> Verdict:
    return replace(verdict, notes=())


def _without_passes(verdict: Verdict) -> Verdict:
    return replace(verdict, reasons=tuple(one for one in verdict.reasons if one.outcome is not Outcome.PASS))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _release(members: Mapping[str, Any]) -> Release:
    champion = members["champion"]
    return Release(
        **(
            dict(members)
            | {
                "challenger": _model(members["challenger"]),
                "champion": None if champion is None else _model(champion),
                "policy": policy_from_json(json.dumps(members["policy"])),
                "stage": Stage(members["stage"]),
                "began_at": datetime.fromisoformat(members["began_at"]),
                "step_began_at": datetime.fromisoformat(members["step_began_at"]),
                "events": tuple(_event(one) for one in members["events"]),
                "steps": tuple(_step(one) for one in members["steps"]),
            }
        )
    )


def _model(members: Mapping[str, Any]) -> ModelVersion:
    metrics = tuple((str(name), float(value)) for name, value in members["metrics"])
    return ModelVersion(**(dict(members) | {"metrics": metrics}))


def _event(members: Mapping[str, Any]) -> Event:
    at, stage = datetime.fromisoformat(members["at"]), Stage(members["stage"])
    return Event(at, stage, members["percent"], members["sentence"])


def _step(members: Mapping[str, Any]) -> StepResult:
    began_at, ended_at = (datetime.fromisoformat(members[name]) for name in ("began_at", "ended_at"))
    times = {"began_at": began_at, "ended_at": ended_at}
    return StepResult(**(dict(members) | times | {"verdict": _verdict(members["verdict"])}))


def _verdict(members: Mapping[str, Any]) -> Verdict:
    reasons = tuple(Reason(**(one | {"outcome": Outcome(one["outcome"])})) for one in members["reasons"])
    return Verdict(Outcome(members["outcome"]), reasons, tuple(members["notes"]), members["overdue"])
