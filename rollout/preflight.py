"""Everything that is checked before a release touches the service.

What belongs here: the checks and their order, the cheap ones first. What does not: the Job (`preflight_job`,
`preflight_run`).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rollout.contract import interface_changes
from rollout.errors import NothingNewError, RefusedError, RejectedError
from rollout.preflight_job import Plan, job
from rollout.preflight_run import Runner
from rollout.probe_run import MODEL_NAME
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rollout.artifact import Artifacts
    from rollout.inference_service import InferenceService
    from rollout.kubernetes_api import KubernetesApi
    from rollout.preflight_job import Found
    from rollout.record import Record
    from rollout.release import ModelVersion, Release


_HTTP2_PORT = "h2c"
"""Knative's name of a port that speaks HTTP/2 from the first byte (Knative runtime contract, Protocols and Ports)."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """How the pre-flight Job is run.

    Attributes:
        image: With this command.
        probe_set: URI of the probe set.
        env: For the probe's access to it.
        model_name: In the URLs of the service.
        deadline_s: For all of it: downloads, starts and the probe set.
    """

    image: str
    probe_set: str
    env: Sequence[Mapping[str, object]] = ()
    model_name: str = MODEL_NAME
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
        return "; ".join(one for one in found if one)

    def may_begin(self, challenger: ModelVersion) -> None:
        """What needs no release to be checked; raises `RefusedError`."""
        observed = self.service.observe()
        if not observed.settled:
            raise RefusedError(
                "the service is not settled: "
                + (observed.failure or observed.complaint or f"its traffic is {dict(observed.traffic)}")
            )
        self._can_be_judged()
        if observed.model_digest and observed.model_digest == challenger.model_digest:
            # A rollback would reject the digest of what goes on serving.
            raise NothingNewError(f"{challenger} is the model that serves already, {challenger.model_digest}")
        self._not_rejected(challenger)

    def _can_be_judged(self) -> None:
        """The evidence needs a transformer that watches both arms and answers by HTTP."""
        if "transformer" not in self.service.document()["spec"]:
            raise RefusedError(
                "both containers are in one pod (mode collocated), so that nobody counts calls arm by arm and no URL "
                "reaches one version alone: release by hand with canaryTrafficPercent (docs/canary.md)"
            )
        _, transformer = self._templates()
        ports = (port.get("name") for one in transformer["spec"]["containers"] for port in one.get("ports") or [])
        if _HTTP2_PORT in ports:
            raise RefusedError(
                "the service is open for gRPC alone (protocol: grpc), and the probe set is sent by HTTP: release by "
                "hand with canaryTrafficPercent (docs/canary.md)"
            )

    def _not_rejected(self, challenger: ModelVersion) -> None:
        why = self.record.rejected().get(challenger.model_digest)
        if why is not None and not self.again:
            raise NothingNewError(f"{challenger.model_digest} was rejected, {why}; --again releases it all the same")

    def _same_interface(self, release: Release) -> str:
        """Clients send one kind of capture to both arms."""
        champion, challenger = release.champion, release.challenger
        if self.artifacts is None or champion is None:
            return ""
        live, new = (self.artifacts.inspect(one.storage_uri, one.version).contract for one in (champion, challenger))
        if changed := interface_changes(live, new):
            raise RefusedError(
                f"its contract has other {', '.join(changed)} than the live one, which clients would have to follow at "
                "once on both arms: such a change needs a second service, or mode collocated and a release by hand"
            )
        return "clients send and get the same as before"

    def _probed(self, release: Release, settings: ProbeJob) -> str:
        found = self._run(release, settings)
        if found.crashed:
            self.waiting(f"pre-flight: once more, because {found.sentence}")
            found = self._run(release, settings)
        if found.outcome is not Outcome.PASS:
            kind = RejectedError if found.outcome is Outcome.FAIL else RefusedError
            raise kind(f"pre-flight says {found.outcome.value}: {found.sentence}")
        return found.sentence

    def _run(self, release: Release, settings: ProbeJob) -> Found:
        namespace, name = self.service.namespace, f"{self.service.name}-preflight"
        command = _command(release, settings, self.service.address())
        plan = Plan(name, namespace, settings.image, command, settings.env, settings.deadline_s)
        document = job(plan, release.challenger, *self._templates())
        return Runner(self.api, self.waiting, self.sleep)(plan, document)

    def _templates(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of predictor and transformer."""
        predictor, transformer = self.service.templates()
        if transformer is None:
            raise RefusedError(
                f"{self.service.namespace}/{self.service.name} has no Knative service of its transformer"
            )
        return predictor, transformer


def _command(release: Release, settings: ProbeJob, live_url: str) -> list[str]:
    challenger, champion = release.challenger, release.champion
    words = ["probe", "--probe-set", settings.probe_set, "--url", "http://127.0.0.1:8080"]
    words += ["--model-name", settings.model_name]
    words += ["--version", challenger.version, "--digest", challenger.model_digest]
    if champion is not None:
        words += ["--champion-url", live_url, "--champion-version", champion.version]
        words += ["--champion-digest", champion.model_digest]
    return [*words, "--policy-json", json.dumps(asdict(release.policy)), "--output", "json"]
