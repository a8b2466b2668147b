"""Everything that is checked before a release touches the service.

What belongs here: the checks and their order, the cheap ones first. What does not: the Job's document
(`preflight_job`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.contract import interface_changes
from rollout.errors import RefusedError, RejectedError
from rollout.preflight_job import PROBE, Found, Plan, ended, job, read_log
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rollout.artifact import Artifacts
    from rollout.inference_service import InferenceService
    from rollout.kubernetes_api import KubernetesApi
    from rollout.record import Record
    from rollout.release import ModelVersion, Release

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """How the pre-flight Job is run.

    Attributes:
        image: With this command.
        probe_set: URI of the probe set.
        env: For the probe's access to it.
        deadline_s: For all of it: downloads, starts and the probe set.
    """

    image: str
    probe_set: str
    env: Sequence[Mapping[str, object]] = ()
    deadline_s: int = 900


@dataclass(frozen=True, slots=True)
class Checks:
    """What a release has to pass before anything is changed.

    Attributes:
        api: Of the cluster.
        service: To be changed.
        record: Its memory.
        artifacts: Where models are read; None leaves the champion's contract unread.
        probe_job: None leaves the Job out.
        again: Whether a rejected digest may be released.
        waiting: Told what is waited for.
        sleep: Waits.
    """

    api: KubernetesApi
    service: InferenceService
    record: Record
    artifacts: Artifacts | None
    probe_job: ProbeJob | None
    again: bool = False
    waiting: Callable[[str], None] = lambda _: None
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, release: Release) -> str:
        """Check a release; what was found, in a sentence. Raises `RefusedError` with the reason."""
        self.may_begin(release.challenger)
        same = self._same_interface(release)
        found = [f"{release.challenger.model_digest[:19]}… is there", same]
        found.append("the probe set was left out" if self.probe_job is None else self._probed(release, self.probe_job))
        if self.again:
            self.record.forgive(release.challenger.model_digest)
        return "; ".join(one for one in found if one)

    def may_begin(self, challenger: ModelVersion) -> None:
        """What needs no release to be checked; raises `RefusedError`."""
        observed = self.service.observe()
        if not observed.settled:
            raise RefusedError(
                "the service is not settled: "
                + (observed.failure or observed.complaint or f"its traffic is {dict(observed.traffic)}")
            )
        self._not_rejected(challenger)

    def _not_rejected(self, challenger: ModelVersion) -> None:
        why = self.record.rejected().get(challenger.model_digest)
        if why is not None and not self.again:
            raise RefusedError(f"{challenger.model_digest} was rejected, {why}; --again releases it all the same")

    def _same_interface(self, release: Release) -> str:
        """With separate components clients send one kind of capture to both arms."""
        if "transformer" not in self.service.document()["spec"]:
            return "a contract of its own may come with it, because both containers are in one pod"
        champion, challenger = release.champion, release.challenger
        if self.artifacts is None or champion is None:
            return ""
        live, new = (self.artifacts.inspect(one.storage_uri, one.version).contract for one in (champion, challenger))
        if changed := interface_changes(live, new):
            raise RefusedError(
                f"its contract has other {', '.join(changed)} than the live one, which clients would have to follow at "
                "once on both arms: such a change needs mode collocated"
            )
        return "clients send and get the same as before"

    def _probed(self, release: Release, settings: ProbeJob) -> str:
        found = self._run(release, settings)
        if found.outcome is not Outcome.PASS:
            kind = RejectedError if found.outcome is Outcome.FAIL else RefusedError
            raise kind(f"the probe set says {found.outcome.value}: {found.sentence}")
        return found.sentence

    def _run(self, release: Release, settings: ProbeJob) -> Found:
        namespace, name = self.service.namespace, f"{self.service.name}-preflight"
        command = _command(release, settings, self.service.address())
        plan = Plan(name, namespace, settings.image, command, settings.env, settings.deadline_s)
        predictor, transformer = self.service.templates()
        collection = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._gone(collection, name)
        self.api.create(collection, job(plan, release.challenger, predictor, transformer))
        try:
            return self._watched(plan)
        finally:
            self.api.delete(f"{collection}/{name}")

    def _watched(self, plan: Plan) -> Found:
        pods = f"/api/v1/namespaces/{plan.namespace}/pods"
        ends_s = time.monotonic() + plan.deadline_s
        while time.monotonic() < ends_s:
            found = self.api.items(pods, labelSelector=f"batch.kubernetes.io/job-name={plan.name}")
            why = ended(found)
            if why:
                return Found(Outcome.ERROR, why)
            if why is not None:
                return read_log(self.api.text(f"{pods}/{found[0]['metadata']['name']}/log", container=PROBE))
            self.waiting("pre-flight: the challenger answers the probe set in a Job")
            self.sleep(_POLL_S)
        return Found(Outcome.ERROR, f"the Job did not end within {plan.deadline_s} s")

    def _gone(self, collection: str, name: str) -> None:
        """Of an earlier run, which was interrupted."""
        self.api.delete(f"{collection}/{name}")
        while self.api.get(f"{collection}/{name}") is not None:
            self.sleep(_POLL_S)


def _command(release: Release, settings: ProbeJob, live_url: str) -> list[str]:
    challenger, champion = release.challenger, release.champion
    words = ["probe", "--probe-set", settings.probe_set, "--url", "http://127.0.0.1:8080"]
    words += ["--version", challenger.version, "--digest", challenger.model_digest]
    if champion is not None:
        words += ["--champion-url", live_url, "--champion-version", champion.version]
        words += ["--champion-digest", champion.model_digest]
    return [*words, "--captures", str(release.policy.probe_captures)]
