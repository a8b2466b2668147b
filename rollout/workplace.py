"""Everything around one service, made from the command line's arguments.

What belongs here: which adapters a command gets. What does not: what it does with them (`commands`).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rollout.artifact import Artifacts, s3_client
from rollout.errors import NothingNewError, RefusedError, UsageError
from rollout.evidence import Gathered
from rollout.inference_service import InferenceService
from rollout.kubernetes_api import KubernetesApi
from rollout.lease import Lease
from rollout.preflight import Checks, ProbeJob
from rollout.probe_run import ProbeService, ServiceProbe
from rollout.prometheus import PrometheusEvidence
from rollout.record import Record
from rollout.registry import REJECTED_TAG, Reference, Registry
from rollout.release import ModelVersion
from rollout.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.arguments import Arguments
    from rollout.release import Release
    from rollout.terminal import Output


@dataclass(frozen=True, slots=True)
class Workplace:
    """One service and its surroundings.

    Attributes:
        arguments: Of the command.
        output: Where it speaks.
        api: Of the service's cluster.
        service: The service.
        record: Its memory.
        lease: Of its releases, not held yet.
    """

    arguments: Arguments
    output: Output
    api: KubernetesApi
    service: InferenceService
    record: Record
    lease: Lease

    @classmethod
    def of(cls, arguments: Arguments, output: Output) -> Workplace:
        """The service that the arguments name; raises `ClusterError` if no cluster is configured."""
        api = KubernetesApi.connect(arguments.context)
        service = InferenceService(api, arguments.namespace, arguments.service)
        lease = Lease(api, arguments.namespace, arguments.service, waiting=output.noted)
        return cls(arguments, output, api, service, Record(api, service), lease)

    def champion(self, name: str) -> ModelVersion:
        """The version that serves now, by what the service's specification says of it."""
        observed = self.service.observe()
        # Without a version the predictor calls itself 1 (the chart's model.version).
        return ModelVersion(name, observed.model_version or "1", observed.storage_uri, observed.model_digest)

    @contextmanager
    def steps(self, lease: Lease) -> Iterator[Steps]:
        """What runs a release, with everything that it is judged by; raises `UsageError` for what is not named."""
        with self.evidence() as evidence:
            yield Steps(self.service, self.record, registry(), evidence, self.checks(), lease.check, self.output)

    def unjudged_steps(self, lease: Lease) -> Steps:
        """What promotes or rolls back because a person says so."""
        return Steps(self.service, self.record, registry(), None, _unchecked, lease.check, self.output)

    @contextmanager
    def evidence(self) -> Iterator[Gathered]:
        """Prometheus and the probe set; raises `UsageError` for what is not named."""
        arguments = self.arguments
        _require("--prometheus", arguments.prometheus)
        _require("--probe-set", arguments.probe_set)
        with PrometheusEvidence(arguments.prometheus, arguments.selector) as counters:
            yield Gathered(counters, ServiceProbe(self._probe_service(), arguments.probe_set))

    def _probe_service(self) -> ProbeService:
        if not self.arguments.url:
            return ProbeService(self.service.address(), model_name=self.arguments.model_name)
        host = self.arguments.host or urlsplit(self.service.url()).netloc
        return ProbeService(self.arguments.url, host=host or None, model_name=self.arguments.model_name)

    def checks(self) -> Checks:
        """What a release has to pass before anything is changed."""
        arguments = self.arguments
        secret, keys = arguments.probe_secret, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        env: list[dict[str, Any]] = [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in keys if secret
        ]
        if arguments.probe_endpoint:
            env.append({"name": "AWS_ENDPOINT_URL", "value": arguments.probe_endpoint})
        env.append({"name": "AWS_DEFAULT_REGION", "value": os.environ.get("AWS_DEFAULT_REGION", "us-east-1")})
        probe_job = None
        if not arguments.skip_preflight:
            probe_job = ProbeJob(arguments.image, arguments.probe_set, env, arguments.model_name)

        def waiting(sentence: str) -> None:
            found = self.record.release()
            if found is not None:
                self.output.waiting(found, sentence)

        artifacts = Artifacts(s3_client())
        return Checks(self.api, self.service, self.record, artifacts, probe_job, arguments.again, waiting)


def registry() -> Registry | None:
    """The registry of the environment; None where it names none, and aliases and tags stay as they are."""
    return Registry.connect() if os.environ.get("MLFLOW_TRACKING_URI") else None


def resolved(arguments: Arguments, *, even_if_rejected: bool = False) -> ModelVersion:
    """The version that the reference means now, its files read.

    Args:
        arguments: Of the command.
        even_if_rejected: Also what the registry says was rolled back.

    Raises:
        RegistryError: There is none.
        ArtifactError: Its files cannot be read.
        NothingNewError: It was rolled back.
    """
    found = Registry.connect().resolve(Reference.parse(arguments.reference, arguments.model))
    rejected = found.tags.get(REJECTED_TAG, "")
    if rejected and not even_if_rejected:
        raise NothingNewError(
            f"version {found.version} of {found.name} was rejected, {rejected}; --again releases it all the same"
        )
    files = Artifacts(s3_client()).inspect(found.source, found.version)
    return ModelVersion(
        found.name,
        found.version,
        files.storage_uri,
        files.model_digest,
        files.contract_digest,
        files.signature,
        found.metrics,
        found.run_id,
    )


def running(workplace: Workplace) -> Release:
    """The release that is running; raises `RefusedError` if none is."""
    release = workplace.record.release()
    if release is None or release.stage.finished:
        raise RefusedError(f"no release of {workplace.service.namespace}/{workplace.service.name} is running")
    return release


def _unchecked(release: Release) -> str:
    raise RefusedError(f"the release of {release.challenger} has not passed its pre-flight")


def _require(option: str, value: str) -> None:
    if not value:
        raise UsageError(f"{option} is needed: a release is judged by it")
