"""The transformer as a KServe model: the request path from a capture to an error ellipse, readable top-down.

What belongs here: the order of the steps, and the SDK's and the protocol's view of this component. What does not: the
steps themselves; each is one call into a module that says how it is done.

    query → arm → model → samples → features → predictor → estimate → answer
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import kserve
from kserve.errors import InvalidInput

import oip
from oip.errors import DeadlineExceeded, NotFound, OipError, Unavailable
from oip.kserve_messages import grpc_error, request_from_sdk, response_to_sdk
from oip.messages import CallContext, InferRequest, InferResponse, ModelMetadata, ServerMetadata, Tensor
from transformer import presentation
from transformer.answer import parse_answer
from transformer.described_model import DescribedModel, ModelDirectory
from transformer.edge import RETRY_AFTER_S, translated
from transformer.errors import BadSamples, InvalidModelOutput, PredictorRefused, TransformerError
from transformer.iq import parse_samples
from transformer.localization import Features, Localization, join_reasons
from transformer.query import parse_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oip.messages import TensorMetadata
    from transformer.answer import Estimate
    from transformer.arms import Arm
    from transformer.predictor_client import PredictorClient
    from transformer.query import Query
    from transformer.settings import Settings

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

CONTRACT_CONFLICT = 409
"""What a predictor answers to features that were built by another contract than its model's."""


class LocalizationTransformer(kserve.Model):
    """Serves the client's contract with the help of a predictor; also the `oip.messages.Backend` of its V2 application.

    Args:
        settings: This component's settings.
        client: Calls the predictor.
    """

    def __init__(self, settings: Settings, client: PredictorClient) -> None:
        super().__init__(settings.model_name)
        self._settings = settings
        self._client = client
        self._arm = settings.arm
        self._models = ModelDirectory(client)
        # FFT and filterbank release the interpreter's lock: a thread a core is enough, and more would only queue there.
        self._threads = ThreadPoolExecutor(settings.dsp_threads_or_quota, thread_name_prefix="dsp")
        self._working = 0

    # --- the request path -------------------------------------------------------------------------------------------

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """Answer one V2 request; raises `OipError`."""
        with translated(context.request_id):
            query = parse_query(request)
            localization = await self.localize(query, context, model_name=model_name, version=version)
            return presentation.respond(self.name, request.id, query, localization)

    async def localize(
        self, query: Query, context: CallContext, *, model_name: str | None = None, version: str | None = None
    ) -> Localization:
        """Samples in, estimates out; raises `TransformerError`, and `NotFound` for another model or version."""
        arm = self._arm
        model = await self._addressed(arm, model_name, version)
        try:
            localization = await self._localize_with(arm, model, query, context)
        except PredictorRefused as refusal:
            if refusal.status != CONTRACT_CONFLICT:
                raise
            logger.info("request %s: the predictor has another contract; asking for it", context.request_id)
            self._models.forget(arm, model)
            localization = await self._localize_with(arm, await self._models.model_of(arm), query, context)
        self._check_version(version, localization.model)  # the predictor may have been replaced in between
        return localization

    async def _localize_with(self, arm: Arm, model: DescribedModel, query: Query, context: CallContext) -> Localization:
        features = await self._off_loop(lambda: extract_features(query, model, self._settings.max_batch))
        response = await self._client.infer(arm.base_url, predictor_request(features, model), self._budget(context))
        estimate = read_estimate(response, features, model)
        served = served_by(response, model)
        if served is not model:
            self._models.update(arm, served)
        return Localization(
            estimate=estimate,
            degraded=join_reasons(features.degraded, estimate.degraded),
            cached=(False,) * len(estimate.confidence),
            arm=arm,
            model=served,
        )

    async def _off_loop(self, work: Callable[[], Result]) -> Result:
        """The result of work done by a thread; `Unavailable` at once when too much is waiting for one already."""
        if self._working >= self._settings.dsp_threads_or_quota + self._settings.max_queue:
            raise Unavailable("the queue for signal processing is full", retry_after_s=RETRY_AFTER_S)
        self._working += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._working -= 1

    def _budget(self, context: CallContext) -> CallContext:
        """The context with a deadline that leaves the predictor no more than its own share."""
        latest_s = time.monotonic() + self._settings.predictor_request_timeout_seconds
        return context if context.deadline_s <= latest_s else replace(context, deadline_s=latest_s)

    # --- what the protocol asks beside inference --------------------------------------------------------------------

    def server_metadata(self) -> ServerMetadata:
        """Name and version of this server."""
        return ServerMetadata(name="heimdall-transformer", version=oip.__version__)

    async def server_ready(self) -> bool:
        """Whether a request could be answered now: the predictor is ready, and its contract is known."""
        if not self.ready or not await self._client.ready(self._arm.base_url):
            return False
        try:
            await self._models.model_of(self._arm)
        except (TransformerError, OipError) as error:
            logger.warning("not ready: %s", error)
            return False
        return True

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether the model is ready; raises `NotFound` for another model or version."""
        self._check_name(model_name)
        ready = await self.server_ready()
        if ready:
            with translated(""):
                await self._addressed(self._arm, model_name, version)
        return ready

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """The client's contract in the protocol's words, with the predictor's version and digests."""
        with translated(""):
            return presentation.metadata(self.name, await self._addressed(self._arm, model_name, version))

    async def healthy(self) -> bool:
        """The SDK's readiness, for its gRPC and V1 routes."""
        return await self.server_ready()

    async def described(self) -> DescribedModel:
        """The model that is being served, for the model's page of the REST API."""
        return await self._models.model_of(self._arm)

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs in the form of the SDK's gRPC metadata; none as long as the model is not known."""
        return [_sdk_metadata(one) for one in self._tensors().inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs in the form of the SDK's gRPC metadata; none as long as the model is not known."""
        return [_sdk_metadata(one) for one in self._tensors().outputs]

    def stop(self) -> None:
        """Accept no more requests. The server has drained before, so that nobody waits for an answer any more."""
        super().stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.abandon()

    def _tensors(self) -> ModelMetadata:
        known = self._models.known(self._arm)
        return presentation.metadata(self.name, known) if known else ModelMetadata(self.name, "", (), ())

    async def _addressed(self, arm: Arm, model_name: str | None, version: str | None) -> DescribedModel:
        """The model that the URL means; asked for anew before a version is said not to exist."""
        self._check_name(model_name)
        model = await self._models.model_of(arm)
        if version not in {None, model.version}:
            self._models.forget(arm, model)
            model = await self._models.model_of(arm)
        self._check_version(version, model)
        return model

    def _check_name(self, model_name: str | None) -> None:
        if model_name not in {None, self.name}:
            raise NotFound(f"there is no model '{model_name}'")

    def _check_version(self, version: str | None, model: DescribedModel) -> None:
        if version not in {None, model.version}:
            raise NotFound(f"the model '{self.name}' has no version '{version}' here; it has {model.version}")

    # --- gRPC and V1, through the SDK -------------------------------------------------------------------------------

    async def predict(self, payload: object, headers: Mapping[str, str] | None = None) -> kserve.InferResponse:
        """Answer a request of the SDK's gRPC route on the same path as V2 over HTTP.

        Raises:
            InvalidInput: The request came by the SDK's V1 route, whose JSON cannot carry samples.
            GrpcException: Everything else, with the status nearest to HTTP's.
        """
        if not isinstance(payload, kserve.InferRequest):
            raise InvalidInput("V1 is not spoken here; use /v2/models/{name}/infer or /api/v1/inference/predict")
        context = CallContext(
            deadline_s=time.monotonic() + self._settings.request_timeout_s,
            request_id=(headers or {}).get("x-request-id") or uuid.uuid4().hex,
        )
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                request, version = request_from_sdk(payload), payload.model_version or None
                response = await self.infer(self.name, version, request, context)
        except TimeoutError as error:
            raise grpc_error(DeadlineExceeded("the request's time budget is used up")) from error
        except OipError as error:
            raise grpc_error(error) from error
        return response_to_sdk(response)


def extract_features(query: Query, model: DescribedModel, max_batch: int) -> Features:
    """Samples → checks → log-mel, by the model's contract; raises `TransformerError`."""
    items = query.iq.size // max(1, len(model.contract.receivers) * math.prod(query.iq.shape[-2:]))
    if items > max_batch:  # the features of so many are larger than a request to the predictor may be
        raise BadSamples(f"iq: {items} items are too many for one request; at most {max_batch} are taken")
    samples = parse_samples(query.iq, model.contract, query.full_scale_dbm)
    return Features(model.log_mel(samples.iq, query.full_scale_dbm), samples.degraded)


def predictor_request(features: Features, model: DescribedModel) -> InferRequest:
    """What the predictor is sent: the features, and the contract that they were built by."""
    return InferRequest(
        inputs=(Tensor(model.contract.features.input, features.log_mel),),
        parameters={"contract_digest": model.contract.digest},
        binary_output=True,
    )


def read_estimate(response: InferResponse, features: Features, model: DescribedModel) -> Estimate:
    """The predictor's outputs, found by the contract's names and checked; one item for each that was sent."""
    arrays = {tensor.name: tensor.array for tensor in response.outputs}
    names = model.contract.outputs
    for name in (names.position, names.uncertainty, *([names.confidence] if names.confidence else [])):
        if name not in arrays:
            raise InvalidModelOutput(f"{name}: is missing")
    confidence = arrays[names.confidence] if names.confidence else None
    estimate = parse_answer(arrays[names.position], arrays[names.uncertainty], confidence, model.contract)
    if len(estimate.latitude) != len(features.log_mel):
        raise InvalidModelOutput(f"{names.position}: holds another number of items than were asked for")
    return estimate


def served_by(response: InferResponse, model: DescribedModel) -> DescribedModel:
    """The model with the version and digest that the answer names: another one may serve the same contract by now."""
    digest = response.parameters.get("model_digest")
    version = response.model_version or model.version
    model_digest = digest if isinstance(digest, str) else model.model_digest
    if (version, model_digest) == (model.version, model.model_digest):
        return model
    return replace(model, version=version, model_digest=model_digest)


def _sdk_metadata(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
