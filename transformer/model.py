"""The transformer as a KServe model: the request path from a capture to an error ellipse, readable top-down.

What belongs here: the order of the steps, and the SDK's and the protocol's view of this component. What does not: the
steps themselves; each is one call into a module that says how it is done.

    query → arm → model → samples → features → predictor → estimate → answer
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import kserve
from kserve.errors import InvalidInput

import oip
from oip.errors import DeadlineExceeded, NotFound, OipError
from oip.kserve_messages import grpc_error, request_from_sdk, response_to_sdk
from oip.messages import CallContext, InferRequest, InferResponse, ModelMetadata, ServerMetadata, Tensor
from transformer import presentation
from transformer.answer import parse_answer
from transformer.described_model import DescribedModel, ModelDirectory
from transformer.edge import translated
from transformer.errors import InvalidModelOutput, PredictorRefused, TransformerError
from transformer.iq import parse_samples
from transformer.localization import Features, Localization, join_reasons
from transformer.query import parse_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
        self._threads = ThreadPoolExecutor(settings.dsp_threads, thread_name_prefix="dsp")

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
            return await self._localize_with(arm, model, query, context)
        except PredictorRefused as refusal:
            if refusal.status != CONTRACT_CONFLICT:
                raise
        logger.info("request %s: the predictor has another contract; asking for it", context.request_id)
        self._models.forget(arm, model)
        return await self._localize_with(arm, await self._models.model_of(arm), query, context)

    async def _localize_with(self, arm: Arm, model: DescribedModel, query: Query, context: CallContext) -> Localization:
        features = await self._off_loop(lambda: extract_features(query, model))
        response = await self._client.infer(arm.base_url, predictor_request(features, model), self._budget(context))
        estimate = read_estimate(response, features, model)
        return Localization(
            estimate=estimate,
            degraded=join_reasons(features.degraded, estimate.degraded),
            cached=(False,) * len(estimate.confidence),
            arm=arm,
            model=model,
        )

    async def _off_loop(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

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
        except TransformerError as error:
            logger.warning("not ready: %s", error)
            return False
        return True

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether the model is ready; raises `NotFound` for another model or version."""
        ready = await self.server_ready()
        if ready or model_name != self.name:
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

    def stop(self) -> None:
        """Accept no more requests; those accepted before end."""
        super().stop()
        self._threads.shutdown(wait=False)

    async def _addressed(self, arm: Arm, model_name: str | None, version: str | None) -> DescribedModel:
        if model_name not in {None, self.name}:
            raise NotFound(f"there is no model '{model_name}'")
        model = await self._models.model_of(arm)
        if version not in {None, model.version}:
            raise NotFound(f"the model '{self.name}' has no version '{version}' here; it has {model.version}")
        return model

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
            request_id=(headers or {}).get("x-request-id", ""),
        )
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                response = await self.infer(self.name, None, request_from_sdk(payload), context)
        except TimeoutError as error:
            raise grpc_error(DeadlineExceeded("the request's time budget is used up")) from error
        except OipError as error:
            raise grpc_error(error) from error
        return response_to_sdk(response)


def extract_features(query: Query, model: DescribedModel) -> Features:
    """Samples → checks → log-mel, by the model's contract."""
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
    if len(arrays[names.position]) != len(features.log_mel):
        raise InvalidModelOutput(f"{names.position}: holds another number of items than were asked for")
    confidence = arrays[names.confidence] if names.confidence else None
    return parse_answer(arrays[names.position], arrays[names.uncertainty], confidence, model.contract)
