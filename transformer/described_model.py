"""What the predictor says about the model behind an arm, kept until it says something else.

What belongs here: metadata → contract → feature extractor, fetched once per arm and shared by the requests that wait
for it. What does not: how to reach the predictor (`predictor_client`), and the meaning of the contract (`contract`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from transformer.contract import Contract, parse_contract
from transformer.errors import BadContract
from transformer.features import LogMel

if TYPE_CHECKING:
    from oip.messages import ModelMetadata
    from transformer.arms import Arm


@dataclass(frozen=True, slots=True, eq=False)
class DescribedModel:
    """A model version with everything that is needed to feed it.

    Attributes:
        version: The version that the predictor names, for example "12".
        model_digest: "sha256:…" of the artifact.
        contract: The parsed contract; its digest travels with every request.
        log_mel: The feature extractor built from the contract.
    """

    version: str
    model_digest: str
    contract: Contract
    log_mel: LogMel


class MetadataSource(Protocol):
    """The part of the predictor client that this module needs."""

    async def metadata(self, base_url: str) -> ModelMetadata:
        """The model's metadata."""
        ...


class ModelDirectory:
    """The described model of each arm; concurrent callers share one fetch."""

    def __init__(self, source: MetadataSource) -> None:
        self._source = source
        self._fetches: dict[str, asyncio.Future[DescribedModel]] = {}

    async def model_of(self, arm: Arm) -> DescribedModel:
        """The arm's model, fetched at the first call.

        Raises:
            BadContract: The model publishes no contract, or one that cannot be read.
            PredictorError: The predictor could not be asked.
        """
        fetch = self._fetches.get(arm.base_url)
        if fetch is None:
            fetch = self._fetches[arm.base_url] = asyncio.create_task(self._fetch(arm))
            fetch.add_done_callback(partial(self._drop_failed, arm))
        # Shielded: a caller whose client hangs up must not cancel the fetch that others wait for.
        return await asyncio.shield(fetch)

    def known(self, arm: Arm) -> DescribedModel | None:
        """The arm's model if it has been fetched already."""
        fetch = self._fetches.get(arm.base_url)
        return fetch.result() if fetch and fetch.done() and not fetch.cancelled() and not fetch.exception() else None

    def update(self, arm: Arm, model: DescribedModel) -> None:
        """Remember what an answer told: the same contract is served by another version now."""
        known: asyncio.Future[DescribedModel] = asyncio.get_running_loop().create_future()
        known.set_result(model)
        self._fetches[arm.base_url] = known

    def forget(self, arm: Arm, stale: DescribedModel) -> None:
        """Ask again at the next call, unless somebody already has."""
        if self.known(arm) is stale:
            del self._fetches[arm.base_url]

    def _drop_failed(self, arm: Arm, fetch: asyncio.Future[DescribedModel]) -> None:
        """A failure is told to those who waited for it, and to nobody who comes later."""
        failed = fetch.cancelled() or fetch.exception() is not None
        if failed and self._fetches.get(arm.base_url) is fetch:
            del self._fetches[arm.base_url]

    async def _fetch(self, arm: Arm) -> DescribedModel:
        return describe(await self._source.metadata(arm.base_url))


def describe(metadata: ModelMetadata) -> DescribedModel:
    """Build the described model from V2 metadata; raises `BadContract`."""
    text = metadata.parameters.get("contract")
    if not isinstance(text, str):
        raise BadContract(
            f"the model '{metadata.name}' publishes no contract: give model.onnx the metadata property "
            "heimdall.contract, or put contract.json beside it"
        )
    contract = parse_contract(text)
    return DescribedModel(
        version=metadata.versions[0] if metadata.versions else "1",
        model_digest=str(metadata.parameters.get("model_digest", "")),
        contract=contract,
        log_mel=LogMel(contract),
    )
