"""What the predictor says about the model behind an arm, kept until it says something else.

What belongs here: metadata → contract → feature extractor, fetched once per arm and shared by the requests that wait
for it. What does not: how to reach the predictor (`predictor_client`), and the meaning of the contract (`contract`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from oip.errors import OipError
from transformer.contract import Contract, parse_contract
from transformer.errors import BadContract, TransformerError
from transformer.features import LogMel

if TYPE_CHECKING:
    from oip.messages import ModelMetadata
    from transformer.arms import Arm

MAX_AGE_S = 2.0
"""A model that is replaced behind one host, where no revision is known, answers from the cache no longer than this."""

MAX_ARMS = 16
"""Arms whose models are kept: two live ones, and those of a few releases before."""

logger = logging.getLogger(__name__)


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


@dataclass(slots=True)
class _Known:
    """What is kept of an arm: the fetch of its model, finished or not, and when it was begun."""

    fetch: asyncio.Future[DescribedModel]
    begun_s: float


class ModelDirectory:
    """The described model of each arm; concurrent callers share one fetch.

    A revision never changes its model. Where no revision is known, anything may be behind the host by now: in the
    second half of its age a description is asked for anew behind the caller's back, and beyond it the caller waits for
    that. So traffic never waits, and what comes after a quiet hour is not answered by the model of before.

    Args:
        source: Asks the predictor.
        max_age_s: How long an answer may come from the cache of a model that was replaced unseen.
    """

    def __init__(self, source: MetadataSource, *, max_age_s: float = MAX_AGE_S) -> None:
        self._source = source
        self._max_age_s = max_age_s
        self._known: dict[tuple[str, str], _Known] = {}
        self._refreshing: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def model_of(self, arm: Arm) -> DescribedModel:
        """The arm's model, fetched at the first call.

        Raises:
            BadContract: The model publishes no contract, or one that cannot be read.
            PredictorError: The predictor could not be asked.
        """
        known = self._known.get(_place(arm))
        if known is None:
            known = self._begin(arm)
        elif not arm.revision and known.fetch.done():
            known = await self._fresh(arm, known)
        # Shielded: a caller whose client hangs up must not cancel the fetch that others wait for.
        return await asyncio.shield(known.fetch)

    def known(self, arm: Arm) -> DescribedModel | None:
        """The arm's model if it has been fetched already."""
        known = self._known.get(_place(arm))
        fetch = known.fetch if known else None
        return fetch.result() if fetch and fetch.done() and not fetch.cancelled() and not fetch.exception() else None

    def update(self, arm: Arm, model: DescribedModel) -> None:
        """Remember what an answer told: the same contract is served by another version now."""
        fetch: asyncio.Future[DescribedModel] = asyncio.get_running_loop().create_future()
        fetch.set_result(model)
        self._known[_place(arm)] = _Known(fetch, time.monotonic())

    def forget(self, arm: Arm, stale: DescribedModel) -> None:
        """Ask again at the next call, unless somebody already has."""
        if self.known(arm) is stale:
            del self._known[_place(arm)]

    def _begin(self, arm: Arm) -> _Known:
        if len(self._known) >= MAX_ARMS:  # arms of revisions that are long gone
            del self._known[next(iter(self._known))]
        known = self._known[_place(arm)] = _Known(asyncio.create_task(self._fetch(arm)), time.monotonic())
        known.fetch.add_done_callback(partial(self._drop_failed, arm))
        return known

    async def _fresh(self, arm: Arm, known: _Known) -> _Known:
        """What is kept of the arm, no older than it may be, unless the predictor cannot be asked."""
        age_s = time.monotonic() - known.begun_s
        if age_s <= self._max_age_s / 2:
            return known
        place = _place(arm)
        task = self._refreshing.get(place)
        if task is None:
            task = self._refreshing[place] = asyncio.create_task(self._ask_again(arm))
            task.add_done_callback(lambda _: self._refreshing.pop(place, None))
        if age_s > self._max_age_s:
            await asyncio.shield(task)
        return self._known.get(place, known)

    async def _ask_again(self, arm: Arm) -> None:
        """Replace a description by a newer one; one that cannot be had leaves the old one for as long again."""
        try:
            model = await self._fetch(arm)
        except (TransformerError, OipError) as error:
            logger.info("the model behind %s could not be asked for anew: %s", arm.base_url, error)
            known = self._known.get(_place(arm))
            if known is not None:
                known.begun_s = time.monotonic()
            return
        old = self.known(arm)
        same = old is not None and (old.version, old.model_digest, old.contract.digest) == (
            model.version,
            model.model_digest,
            model.contract.digest,
        )
        self.update(arm, old if old is not None and same else model)

    def _drop_failed(self, arm: Arm, fetch: asyncio.Future[DescribedModel]) -> None:
        """A failure is told to those who waited for it, and to nobody who comes later."""
        failed = fetch.cancelled() or fetch.exception() is not None
        known = self._known.get(_place(arm))
        if failed and known is not None and known.fetch is fetch:
            del self._known[_place(arm)]

    async def _fetch(self, arm: Arm) -> DescribedModel:
        return describe(await self._source.metadata(arm.base_url))


def _place(arm: Arm) -> tuple[str, str]:
    """What a model is known by. The ordinary host leads to another revision after a promotion."""
    return arm.base_url, arm.revision


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
