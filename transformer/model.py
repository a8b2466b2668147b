"""The transformer as a KServe model: the request path from a capture to an error ellipse, readable top-down.

What belongs here: the order of the steps, and the SDK's and the protocol's view of this component. What does not: the
steps themselves; each is one call into a module that says how it is done.

    query ─▶ arm ─▶ its model ─▶ cache ─▶ answers ─▶ estimate ─▶ response
                                   └─ misses: samples ─▶ log-mel ─▶ predictor ─▶ outputs (`computation`)
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import kserve
from kserve.errors import InvalidInput

import oip
from oip import kserve_messages as sdk
from oip import log_fields, tracing
from oip.errors import NotFound, OipError
from oip.messages import ModelMetadata, ServerMetadata
from oip.outcomes import counted
from transformer import presentation
from transformer.cache_key import AnswerSource, item_keys
from transformer.computation import ModelReplaced, estimate_of, extract_features, predictor_request, reader, served_by
from transformer.edge import CONTRACT_CONFLICT, translated
from transformer.errors import BadSamples, PredictorRefused, TransformerError
from transformer.iq import fit
from transformer.localization import Localization
from transformer.pinned_version import arm_of_version
from transformer.processing import Processing
from transformer.query import parse_query
from transformer.time_share import predictor_deadline_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Array, CallContext, InferRequest, InferResponse
    from transformer.answer_cache import AnswerCache, ComputedAnswer
    from transformer.arms import Arm, Arms
    from transformer.described_model import DescribedModel, ModelDirectory
    from transformer.observed import Observed
    from transformer.predictor_client import PredictorClient
    from transformer.query import Query
    from transformer.settings import Settings
    from transformer.traffic_watch import TrafficWatch
    from transformer.upstream import Upstream

logger = logging.getLogger(__name__)

BATCH_AXES = 4
"""Axes of samples whose first one counts items: [B, R, N, 2]."""

INLINE_OUTLINES = 4
"""So many GeoJSON outlines are drawn where they are: 0.1 ms each, 4 ms across the antimeridian or around a pole."""

INLINE_HASH_BYTES = 1024 * 1024
"""Samples up to this size are hashed where they are (0.5 ms); more leave the event loop."""


class LocalizationTransformer(kserve.Model):
    """Serves the client's contract with the help of a predictor; also the `oip.messages.Backend` of its V2 application.

    Args:
        settings: This component's settings.
        client: Asks a predictor whether it is ready.
        models: The described model of each arm.
        watch: The arms.
        upstream: Calls the arms.
        cache: The answers that are known.
        observed: Counts what clients are told.
    """

    def __init__(
        self,
        settings: Settings,
        client: PredictorClient,
        models: ModelDirectory,
        watch: TrafficWatch,
        upstream: Upstream,
        cache: AnswerCache,
        observed: Observed,
    ) -> None:
        super().__init__(settings.model_name)
        self._settings = settings
        self._client = client
        self._models = models
        self._watch = watch
        self._upstream = upstream
        self._cache = cache
        self.observed = observed
        self._processing = Processing(threads=settings.dsp_threads_or_quota, max_waiting=settings.max_queue)

    # --- the request path -------------------------------------------------------------------------------------------

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """Answer one V2 request; raises `OipError`."""
        with translated(context.request_id):
            query = parse_query(request)
            localization = await self.localize(query, context, model_name=model_name, version=version)
            return await self._respond(request.id, query, localization)

    async def _respond(self, request_id: str | None, query: Query, localization: Localization) -> InferResponse:
        """The response; outlines of many items leave the event loop."""
        respond = partial(presentation.respond, self.name, request_id, query, localization)
        outlines = len(localization.cached) if "geojson" in query.outputs else 0
        return respond() if outlines <= INLINE_OUTLINES else await self._processing.in_thread(respond)

    async def localize(
        self, query: Query, context: CallContext, *, model_name: str | None = None, version: str | None = None
    ) -> Localization:
        """Samples in, estimates out; raises `TransformerError`, and `NotFound` for another model or version."""
        self._check_name(model_name)
        with self.observed.in_flight():
            return await self._localize(query, context, version)

    async def _localize(self, query: Query, context: CallContext, version: str | None) -> Localization:
        await self._processing.turns.wait(context.watch)
        await self._watch.start()
        arms = self._watch.arms
        drawn_at = random.random()  # noqa: S311 - a draw among arms is no secret
        arm = await self._serving(arms, version, context) if version else arms.draw(query.session_id, drawn_at)
        fallback = arms.fallback(arm, self._settings.arm) if version is None else arm
        localization = await self._upstream.with_fallback(
            arm, fallback, lambda chosen, repeated: self._ask(chosen, query, context, repeated=repeated), context
        )
        drawn = version is None and localization.arm.revision  # neither pinned, nor by whatever is left
        if drawn and not self._watch.arms.serve(localization.arm):  # withdrawn while it was at work
            localization = await self._ask(self._watch.arms.stable, query, context, repeated=True)
        self._check_version(version, localization.model)  # the predictor may have been replaced in between
        self.observed.answered(localization)
        return localization

    async def _ask(self, arm: Arm, query: Query, context: CallContext, *, repeated: bool) -> Localization:
        """One arm's answer; asked again once, past the cache, where it turns out to serve another model by now."""
        model = await self._model_of(arm, context)
        log_fields.of_request(
            arm=arm.name, revision=arm.revision, version=model.version, model_digest=model.model_digest
        )
        try:
            return await self._answer(arm, model, query, context, bypass=not query.cache, repeated=repeated)
        except ModelReplaced as replaced:
            self._models.update(arm, replaced.served)
        except PredictorRefused as refusal:
            if refusal.status != CONTRACT_CONFLICT:
                raise
            self._models.forget(arm, model)
        logger.info("request %s: %s has another model by now", context.request_id, arm.base_url)
        return await self._answer(arm, await self._model_of(arm, context), query, context, bypass=True, repeated=True)

    async def _answer(
        self,
        arm: Arm,
        model: DescribedModel,
        query: Query,
        context: CallContext,
        *,
        bypass: bool,
        repeated: bool,
    ) -> Localization:
        """What a model says to every item: known answers from the cache, the rest computed in one call."""
        iq = self._items(query, model)
        served = model

        async def compute(indices: Sequence[int]) -> Sequence[ComputedAnswer]:
            nonlocal served
            with tracing.span("features") as span:
                span.set("heimdall.items", len(indices))
                features = await self._processing.features(
                    iq[0, ..., 0].size * len(indices),
                    lambda: extract_features(iq, indices, model, query.full_scale_dbm),
                )
            read = reader(features, model)
            response = await self._upstream.infer(
                arm,
                predictor_request(features, model),
                lambda answer: (read(answer), answer),
                replace(context, deadline_s=self._predictor_deadline_s(context)),
                repeated=repeated,
            )
            answers, raw = response
            served = served_by(raw, model)
            if served is not model:
                if not bypass:  # the keys are the other version's
                    raise ModelReplaced(served)
                self._models.update(arm, served)
            return answers

        keys = (b"",) * len(iq) if bypass else await self._keys(iq, model, query)
        looked = await self._cache.answers(keys, compute, bypass=bypass)
        return Localization(estimate_of(looked.answers, served), looked.degraded, looked.cached, arm, served)

    def _items(self, query: Query, model: DescribedModel) -> Array:
        """The samples as [B, R, N, 2], without a copy; raises `BadSamples`."""
        items, most = len(query.iq) if query.iq.ndim == BATCH_AXES else 1, self._settings.max_batch
        if items > most:  # the features of so many are larger than a request may be
            raise BadSamples(f"iq: {items} items are too many for one request; at most {most} are taken")
        return fit(query.iq, model.contract)[0]

    async def _keys(self, iq: Array, model: DescribedModel, query: Query) -> tuple[bytes, ...]:
        """What the answers are known by in the cache."""
        full_scale_dbm = model.contract.full_scale_dbm if query.full_scale_dbm is None else query.full_scale_dbm
        source = AnswerSource(self.name, model.version, model.model_digest, model.contract.digest, full_scale_dbm)
        if iq.nbytes <= INLINE_HASH_BYTES:
            return item_keys(source, iq)
        return await self._processing.in_thread(lambda: item_keys(source, iq))

    def _predictor_deadline_s(self, context: CallContext | None) -> float:
        longest_s = self._settings.predictor_request_timeout_seconds
        return predictor_deadline_s(context.deadline_s, longest_s) if context else math.inf

    # --- who serves what --------------------------------------------------------------------------------------------

    async def _model_of(self, arm: Arm, context: CallContext | None = None) -> DescribedModel:
        """The arm's model. An arm that cannot say what it serves has failed like one that does not answer."""
        with self._upstream.counted(arm, self._predictor_deadline_s(context)):
            return await self._models.model_of(arm)

    async def _serving(self, arms: Arms, version: str, context: CallContext | None = None) -> Arm:
        """The arm that serves this version."""
        return await arm_of_version(self.name, version, arms, self._models, lambda arm: self._model_of(arm, context))

    def _check_name(self, model_name: str | None) -> None:
        if model_name not in {None, self.name}:
            raise NotFound(f"there is no model '{model_name}'")

    def _check_version(self, version: str | None, model: DescribedModel) -> None:
        if version not in {None, model.version}:
            raise NotFound(f"the model '{self.name}' has no version '{version}' here; it has {model.version}")

    @property
    def arms(self) -> Arms:
        """The arms that requests are drawn for now."""
        return self._watch.arms

    async def described(self, version: str | None = None) -> DescribedModel:
        """The model that is served, in this version if one is given; raises `NotFound`, `TransformerError`."""
        await self._watch.start()
        arms = self._watch.arms
        return await self._model_of(arms.stable if version is None else await self._serving(arms, version))

    # --- what the protocol asks beside inference --------------------------------------------------------------------

    def server_metadata(self) -> ServerMetadata:
        """Name and version of this server."""
        return ServerMetadata(name="heimdall-transformer", version=oip.__version__)

    async def server_ready(self) -> bool:
        """Whether a request could be answered now: the predictor is ready, and its contract is known."""
        if not self.ready:
            return False
        await self._watch.start()
        stable = self._watch.arms.stable
        try:
            if self._settings.predictor_readiness and not await self._client.ready(stable.base_url):
                return False
            if self._settings.predictor_readiness:
                await self._models.model_of(stable)
        except (TransformerError, OipError) as error:
            logger.warning("not ready: %s", error)
            return False
        return True

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether the model is ready; raises `NotFound` for another model or version."""
        self._check_name(model_name)
        ready = await self.server_ready()
        if ready and version is not None:
            with translated(""):
                await self.described(version)
        return ready

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """The client's contract in the protocol's words, with the predictor's version and digests."""
        self._check_name(model_name)
        with translated(""):
            return presentation.metadata(self.name, await self.described(version))

    async def healthy(self) -> bool:
        """The SDK's readiness, for its gRPC and V1 routes."""
        return await self.server_ready()

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs in the form of the SDK's gRPC metadata; none as long as the model is not known."""
        return sdk.metadata_to_sdk(self._tensors().inputs)

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs in the form of the SDK's gRPC metadata; none as long as the model is not known."""
        return sdk.metadata_to_sdk(self._tensors().outputs)

    def stop(self) -> None:
        """Accept no more requests. The server has drained before, so that nobody waits for an answer any more."""
        super().stop()
        self._processing.stop()

    def _tensors(self) -> ModelMetadata:
        known = self._models.known(self._watch.arms.stable)
        return presentation.metadata(self.name, known) if known else ModelMetadata(self.name, "", (), ())

    # --- gRPC and V1, through the SDK -------------------------------------------------------------------------------

    async def predict(self, payload: object, headers: Mapping[str, str] | None = None) -> kserve.InferResponse:
        """Answer a request of the SDK's gRPC route on the same path as V2 over HTTP.

        Raises:
            InvalidInput: The request came by the SDK's V1 route, whose JSON cannot carry samples.
            GrpcException: Everything else, with the status nearest to HTTP's.
        """
        if not isinstance(payload, kserve.InferRequest):
            raise InvalidInput("V1 is not spoken here; use /v2/models/{name}/infer or /api/v1/inference/predict")
        context = sdk.context_from_sdk(headers or {}, self._settings.request_timeout_s)
        log_fields.of_request(request_id=context.request_id)
        try:
            with tracing.span(sdk.GRPC_METHOD, tracing.Kind.SERVER, (context.traceparent, context.tracestate)):
                return sdk.response_to_sdk(await counted(self._infer_sdk(payload, context), context, self._observe))
        except OipError as error:
            raise sdk.grpc_error(error) from error

    async def _infer_sdk(self, payload: kserve.InferRequest, context: CallContext) -> InferResponse:
        return await self.infer(self.name, payload.model_version or None, sdk.request_from_sdk(payload), context)

    def _observe(self, version: str, code: int, duration_s: float) -> None:
        self.observed.request(self.name, version, code, duration_s)
