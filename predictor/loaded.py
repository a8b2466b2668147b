"""One immutable version of a model, loaded: everything that its answers depend on.

What belongs here: putting artifact, session, signature and contract together. What does not: requests and threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from oip.messages import ModelMetadata
from predictor import artifact
from predictor.contract import METADATA_KEY, Contract
from predictor.errors import ContractMismatch
from predictor.session import Session
from predictor.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Parameter
    from predictor.artifact import Artifact
    from predictor.settings import Settings

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
    """

    artifact: Artifact
    session: Session
    signature: Signature
    contract: Contract | None
    digests: Mapping[str, Parameter]

    @classmethod
    def load(cls, settings: Settings) -> LoadedModel:
        """Find, check, load and warm up the model that the settings name.

        Raises:
            ArtifactError: The files, or the contract in them, are not what they should be.
            WarmUpFailed: The model cannot be run.
        """
        found = artifact.find(settings.model_dir, settings.model_version, settings.model_digest)
        session = Session(found.path, threads=settings.session_threads_or_quota, providers=settings.providers)
        contract = _contract(found, session.metadata_props)
        session.warm_up(settings.warmup_batch_sizes)
        return cls(found, session, Signature.of(session.inputs, session.outputs), contract, _digests(found, contract))

    def metadata(self, name: str) -> ModelMetadata:
        """The V2 model metadata under this name; the contract's text is the parameter `contract`."""
        text = {"contract": self.contract.text} if self.contract else {}
        return ModelMetadata(
            name=name,
            platform=PLATFORM,
            inputs=self.session.inputs,
            outputs=self.session.outputs,
            versions=(self.artifact.version,),
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


def _contract(found: Artifact, metadata_props: Mapping[str, str]) -> Contract | None:
    """The contract beside the model, else the one inside it, else none."""
    if found.contract_json is not None:
        return Contract.parse(found.contract_json, artifact.CONTRACT_FILE)
    inside = metadata_props.get(METADATA_KEY)
    return Contract.parse(inside, f"{found.path.name}, metadata '{METADATA_KEY}'") if inside is not None else None


def _digests(found: Artifact, contract: Contract | None) -> Mapping[str, Parameter]:
    of_contract = {"contract_digest": contract.digest} if contract else {}
    return MappingProxyType({"model_digest": found.model_digest, **of_contract})
