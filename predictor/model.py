"""The predictor as KServe sees it: the only place beside `__main__` that knows the SDK's types.

What belongs here: `kserve.Model`, and the SDK's gRPC and V1 routes led into the path of V2 over HTTP. What does not:
that path (`backend`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kserve
from kserve.errors import InferenceError, InvalidInput, ModelNotReady

from oip import errors as oip_errors
from oip import log_fields, tracing
from oip.errors import OipError
from oip.kserve_messages import (
    GRPC_METHOD,
    context_from_sdk,
    grpc_error,
    metadata_to_sdk,
    request_from_sdk,
    response_to_sdk,
)
from oip.messages import CallContext, InferRequest, InferResponse
from oip.outcomes import counted
from predictor import v1
from predictor.backend import Backend
from predictor.errors import InferenceFailed, SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predictor.settings import Settings
    from predictor.signature import Signature


class OnnxModel(kserve.Model):
    """An ONNX model for the SDK's `ModelServer`.

    Args:
        settings: Which model, and how it is run.

    Attributes:
        backend: Answers; for the V2 application too.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.model_name)
        self.ready = False
        self.backend = Backend(settings)
        self._timeout_s = settings.request_timeout_s

    def load(self) -> bool:
        """Load the model and warm it up; only then is it ready.

        The SDK calls this too, on the event loop, for every gRPC or V1 request that finds the model not ready: what
        has been unloaded stays so.

        Raises:
            PredictorError: It cannot be served.
        """
        if not self.ready:
            self.backend.catalog.load()
            self.ready = True
        return True

    def stop(self) -> None:
        """Accept no more requests. The server has drained before, so that at most abandoned runs are waited for."""
        self.backend.close()

    async def healthy(self) -> bool:
        """The SDK's question for its gRPC and V1 routes."""
        return await self.backend.server_ready()

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs in the form of the SDK's gRPC metadata."""
        signature = self._signature()
        return metadata_to_sdk(tuple(signature.inputs.values())) if signature else []

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs in the form of the SDK's gRPC metadata."""
        signature = self._signature()
        return metadata_to_sdk(tuple(signature.outputs.values())) if signature else []

    def _signature(self) -> Signature | None:
        current = self.backend.catalog.current
        return current.loaded.signature if current else None

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None
    ) -> kserve.InferResponse | dict[str, list[object]]:
        """Answer a gRPC or a V1 request on the same path as V2 over HTTP."""
        context = context_from_sdk(headers or {}, self._timeout_s)
        log_fields.of_request(request_id=context.request_id)
        if not isinstance(payload, kserve.InferRequest):
            return await self._predict_v1(payload, context)
        parent = (context.traceparent, context.tracestate)
        with tracing.span(GRPC_METHOD, tracing.Kind.SERVER, parent):
            return await self._predict_grpc(payload, context)

    async def _predict_grpc(self, payload: kserve.InferRequest, context: CallContext) -> kserve.InferResponse:
        try:
            request = request_from_sdk(payload)
            return response_to_sdk(await self._counted(payload.model_version or None, request, context))
        except OipError as error:
            raise grpc_error(error) from error

    async def _predict_v1(self, payload: object, context: CallContext) -> dict[str, list[object]]:
        try:
            signature = self._signature()
            if signature is None:
                raise ModelNotReady(self.name)
            request = InferRequest(inputs=(v1.decode(payload, tuple(signature.inputs.values())),))
            return v1.encode((await self._counted(None, request, context)).outputs)
        except (SignatureError, oip_errors.InvalidRequest) as error:
            raise InvalidInput(str(error)) from error
        except oip_errors.Unavailable as error:
            raise ModelNotReady(self.name, error.message) from error
        except (InferenceFailed, OipError) as error:
            raise InferenceError("the model failed on this request") from error

    async def _counted(self, version: str | None, request: InferRequest, context: CallContext) -> InferResponse:
        """The answer within its deadline; an error counts for the version that was asked."""

        def observe(answered_by: str, code: int, seconds: float) -> None:
            self.backend.observe(self.name, answered_by or version or "", code, seconds)

        return await counted(self.backend.infer(self.name, version, request, context), context, observe)
