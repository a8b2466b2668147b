"""The request path of the predictor, top-down.

What belongs here: how a request becomes an answer, and the one translation of this component's errors into the
protocol's. What does not: how any single step is done, and KServe's types (`model`).

    request → version → contract → signature → session, in a worker thread or at once → check → response
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from oip import __version__, log_fields, tracing
from oip import errors as oip_errors
from oip.messages import InferResponse, ServerMetadata, Tensor
from predictor.catalog import Catalog, Served
from predictor.errors import (
    ContractMismatch,
    DeadlinePassed,
    Overloaded,
    PredictorError,
    SignatureError,
)
from predictor.metrics import PredictorMetrics
from predictor.work import Execution, Work
from predictor.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oip.errors import OipError
    from oip.messages import CallContext, InferRequest, ModelMetadata
    from oip.statistics import ModelStatistics
    from oip.tracing import Span
    from predictor.settings import Settings
    from predictor.work import Results

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""A full queue empties within a second at any sensible setting; the header knows whole seconds only."""

UNLOAD_S = 5.0
"""How long a run whose client has given up may hold up the end of the process; one that takes longer is abandoned."""


class Backend:
    """Answers for one model: an `oip.messages.Backend`, and the observer and statistics of the V2 application.

    Args:
        settings: Which model, and how it is run.

    Attributes:
        catalog: The versions that are served.
        metrics: To be registered with Prometheus.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = settings.model_name
        self.metrics = PredictorMetrics(self._name)
        self.catalog = Catalog(settings, self.metrics)
        self._workers = WorkerPool(
            settings.execution_threads_or_quota,
            settings.max_queue,
            max_rows=settings.max_batch_size,
            wait_s=settings.batch_wait_s,
        )
        self.metrics.queued = lambda: self._workers.pending
        extensions = ["binary_tensor_data", "statistics", *(["model_repository"] if settings.repository_api else [])]
        self._server_metadata = ServerMetadata("heimdall-predictor", __version__, tuple(extensions))

    def close(self) -> None:
        """Serve nothing more. Those that were accepted are answered, unless a run takes longer than `UNLOAD_S`."""
        self.catalog.unload()
        self._workers.close(UNLOAD_S)

    @property
    def unfinished_runs(self) -> int:
        """After `close`: runs that still go on, in native code that no Python thread can end."""
        return self._workers.alive

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """Answer one V2 request.

        Raises:
            OipError: 400 naming the field, 404, 409 with the model's `contract_digest`, 500, 503 with Retry-After, 504.
        """
        served = self._addressed(model_name, version)
        log_fields.of_request(**served.log_fields)
        self.metrics.in_flight += 1
        try:
            return await self._answer(served, request, context)
        except PredictorError as error:
            raise _translated(error, served, context) from error
        finally:
            self.metrics.in_flight -= 1

    async def _answer(self, served: Served, request: InferRequest, context: CallContext) -> InferResponse:
        loaded = served.loaded
        loaded.check_contract(request.parameters)
        names = loaded.signature.output_names(request.outputs)
        work = loaded.work(request.inputs, names, context.deadline_s)
        with tracing.span("session run") as span:
            span.set("heimdall.rows", work.rows)
            span.set("heimdall.version", loaded.artifact.version)
            if served.inline.allow(work.rows):
                results = _run_inline(served, work)
            else:
                results = await self._run_in_thread(served, work, context, span)
        loaded.signature.check_results(names, results)
        return InferResponse(
            model_name=self._name,
            model_version=loaded.artifact.version,
            id=request.id,
            outputs=tuple(map(Tensor, names, results)),
            parameters=loaded.digests,
        )

    async def _run_in_thread(self, served: Served, work: Work, context: CallContext, span: Span) -> Results:
        future = self._workers.submit(work)
        if context.watch is not None and self._workers.crowded:
            context.watch(future)
        outcome = await future
        span.set("heimdall.queue_s", outcome.queue_s)
        served.recorder.waited(outcome.queue_s)
        for execution in outcome.executions:
            served.recorder.executed(execution)
        return outcome.results

    def _addressed(self, model_name: str, version: str | None) -> Served:
        """The version that the URL means; `NotFound` or `Unavailable` if it is not to be had."""
        if model_name != self._name:
            raise oip_errors.NotFound(f"there is no model '{model_name}'")
        current = self.catalog.current
        if current is None:
            raise oip_errors.Unavailable(f"the model '{self._name}' is not ready", retry_after_s=RETRY_AFTER_S)
        if version is None:
            return current
        served = self.catalog.served.get(version)
        if served is None:
            here = ", ".join(self.catalog.served)
            raise oip_errors.NotFound(f"the model '{self._name}' has no version '{version}' here; it has {here}")
        return served

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        return self._server_metadata

    async def server_ready(self) -> bool:
        """Whether the model is loaded, warm, and not being stopped."""
        return self.catalog.current is not None

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether the model is ready; raises `NotFound` for another name or version."""
        try:
            self._addressed(model_name, version)
        except oip_errors.Unavailable:
            return False
        return True

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """The version's inputs, outputs, digests and contract, and the versions that are served."""
        return self._addressed(model_name, version).loaded.metadata(self._name, tuple(self.catalog.served))

    def statistics(self, model_name: str, version: str | None) -> Sequence[ModelStatistics]:
        """What was measured of a version; of all that are served if none is named. Raises as `model_metadata`."""
        addressed = self._addressed(model_name or self._name, version)
        served = self.catalog.served.values() if version is None else [addressed]
        return [one.recorder.statistics(self._name, one.loaded.artifact.version) for one in served]

    def observe(self, model_name: str, version: str, code: int, seconds: float) -> None:
        """The V2 application's observer.

        An answer counts for the version that gave it; an error for the version that was asked; and what never came as
        far as a name that exists, for none.
        """
        served = self.catalog.served.get(version) if version else self.catalog.current if model_name else None
        recorder = self.metrics.recorder(version) if served is None and version else None
        (served.recorder if served else recorder or self.metrics.unattributed()).answered(code, seconds)


def _run_inline(served: Served, work: Work) -> Results:
    if work.deadline_s <= time.monotonic():
        raise DeadlinePassed("the request's time budget was used up before it could be run")
    began_s = time.perf_counter()
    results = work.model.run(work.inputs, work.output_names)
    ended_s = time.perf_counter()
    served.recorder.waited(0.0)
    served.recorder.executed(Execution(work.rows, began_s, began_s, ended_s, ended_s))
    if not served.inline.took(ended_s - began_s):
        logger.warning("runs take longer than they did in warm-up: from now on they are made in threads")
    return results


def _translated(error: PredictorError, served: Served, context: CallContext) -> OipError:
    """The protocol's error for one of ours. The runtime's own words go to the log only."""
    match error:
        case SignatureError():
            return oip_errors.InvalidRequest(str(error))
        case ContractMismatch():
            own = served.loaded.contract
            return oip_errors.Conflict(str(error), details={"contract_digest": own.digest} if own else None)
        case Overloaded():
            return oip_errors.Unavailable(str(error), retry_after_s=RETRY_AFTER_S)
        case DeadlinePassed():
            return oip_errors.DeadlineExceeded(str(error))
    details = {"request_id": context.request_id, "version": served.loaded.artifact.version}
    logger.error("request %s: the model failed: %s", context.request_id, error, extra=details)
    return oip_errors.InternalError("the model failed on this request")
