"""One immutable version of a model, loaded: everything that its answers depend on.

What belongs here: putting artifact, session, signature and contract together. What does not: requests and threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from oip.messages import ModelMetadata
from predictor import artifact, source
from predictor.contract import METADATA_KEY, Contract
from predictor.errors import ContractMismatch
from predictor.graph_cache import GraphCache
from predictor.layout import CONTRACT_FILE
from predictor.plan import Plan, plan_for
from predictor.session import Session
from predictor.signature import Signature
from predictor.warm_up import is_bounded, measure, rows_are_independent
from predictor.work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Parameter, Tensor
    from predictor.artifact import Artifact
    from predictor.settings import Settings

_ONE_THREAD_RUN_S = 0.001
_PERHAPS_SMALL_BYTES = 16 * 1024 * 1024
"""A model in a larger file is not loaded twice to find out that it is slow."""

PLATFORM = "onnxruntime_onnx"
"""Triton's name for ONNX models run by ONNX Runtime (V2 metadata, `<project>_<format>`)."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        artifact: Where it comes from, its version and its digest.
        session: Runs it.
        signature: Its inputs and outputs.
        contract: What the model says about itself, if it does.
        digests: The parameters of every response: `model_digest`, and `contract_digest` if there is a contract.
        plan: How it is best run.
    """

    artifact: Artifact
    session: Session
    signature: Signature
    contract: Contract | None
    digests: Mapping[str, Parameter]
    plan: Plan

    @classmethod
    def load(cls, settings: Settings) -> LoadedModel:
        """Fetch, find, check, load and warm up the model that the settings name.

        Raises:
            SourceError: It cannot be fetched.
            ArtifactError: The files, or the contract in them, are not what they should be.
            WarmUpFailed: The model cannot be run.
        """
        return cls.of(find(settings), settings)

    @classmethod
    def of(cls, found: Artifact, settings: Settings) -> LoadedModel:
        """Load and warm up this model; raises as `load`."""
        session, run_s = _warm_session(found, settings)
        contract = _contract(found, session.metadata_props)
        limit_s = settings.inline_run_us * 1e-6
        plan = plan_for(
            run_s,
            independent=settings.max_batch_size > 1 and rows_are_independent(session),
            bounded=limit_s > 0 and is_bounded(session, found.path),
            max_rows=settings.max_batch_size,
            inline_limit_s=limit_s,
        )
        signature = Signature.of(session.inputs, session.outputs)
        return cls(found, session, signature, contract, _digests(found, contract), plan)

    def work(self, tensors: Sequence[Tensor], output_names: Sequence[str], deadline_s: float) -> Work:
        """What a request asks of this model; raises `SignatureError` if its tensors do not fit.

        Args:
            tensors: The request's inputs.
            output_names: What it asks for, out of the signature.
            deadline_s: When nobody waits any more, on the clock of `time.monotonic()`.
        """
        inputs = self.signature.arrays(tensors)
        shapes = [one.shape for one in inputs.values()]
        rows = max([shape[0] if shape else 1 for shape in shapes], default=1)
        key = None
        if 0 < rows < self.plan.max_rows and all(shape[:1] == (rows,) for shape in shapes):
            key = (self.session, tuple(output_names), tuple((name, one.shape[1:]) for name, one in inputs.items()))
        return Work(self.session, inputs, output_names, rows, deadline_s, key)

    def metadata(self, name: str, versions: tuple[str, ...] = ()) -> ModelMetadata:
        """The V2 model metadata under this name, with these versions; the contract's text is a parameter."""
        text = {"contract": self.contract.text} if self.contract else {}
        return ModelMetadata(
            name=name,
            platform=PLATFORM,
            inputs=self.session.inputs,
            outputs=self.session.outputs,
            versions=versions or (self.artifact.version,),
            parameters=MappingProxyType({**self.digests, **text}),
        )

    def check_contract(self, parameters: Mapping[str, Parameter]) -> None:
        """Refuse a request whose parameter `contract_digest` names another contract than this model's.

        Raises:
            ContractMismatch: Also if the model has no contract.
        """
        expected = parameters.get("contract_digest")
        own = self.digests.get("contract_digest")
        if expected is not None and expected != own:
            raise ContractMismatch(
                f"parameters.contract_digest: the request was built for {expected}, "
                f"but version {self.artifact.version} of this model has {own or 'no contract'}"
            )


def find(settings: Settings) -> Artifact:
    """The model that the settings name, on this machine; raises `SourceError` and `ArtifactError`."""
    place = source.obtain(settings, os.environ)
    return artifact.find(place.path, place.version, settings.model_digest)


def _warm_session(found: Artifact, settings: Settings) -> tuple[Session, dict[int, float]]:
    """A session that has run, and its times. A model of unknown size is tried with one thread first."""
    threads = settings.session_threads_or_quota
    choose = not settings.session_threads and threads > 1 and found.path.stat().st_size <= _PERHAPS_SMALL_BYTES
    session = _session(found, settings, 1 if choose else threads)
    run_s = measure(session, settings.batch_sizes)
    if not choose or not run_s or min(run_s.values()) <= _ONE_THREAD_RUN_S:
        return session, run_s
    session = _session(found, settings, threads)
    return session, measure(session, settings.batch_sizes)


def _session(found: Artifact, settings: Settings, threads: int) -> Session:
    if settings.graph_cache_dir is None:
        return Session(found.path, threads=threads, providers=settings.providers)
    cache = partial(GraphCache(settings.graph_cache_dir).open, digest=found.model_digest)
    return Session(found.path, threads=threads, providers=settings.providers, open_session=cache)


def _contract(found: Artifact, metadata_props: Mapping[str, str]) -> Contract | None:
    """The contract beside the model, else the one inside it, else none."""
    if found.contract_json is not None:
        return Contract.parse(found.contract_json, CONTRACT_FILE)
    inside = metadata_props.get(METADATA_KEY)
    return Contract.parse(inside, f"{found.path.name}, metadata '{METADATA_KEY}'") if inside is not None else None


def _digests(found: Artifact, contract: Contract | None) -> Mapping[str, Parameter]:
    of_contract = {"contract_digest": contract.digest} if contract else {}
    return MappingProxyType({"model_digest": found.model_digest, **of_contract})
