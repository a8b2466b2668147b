"""The request path of the predictor, top-down, and the only place beside `__main__` that knows KServe's types.

What belongs here: how a request becomes an answer, the one translation of this component's errors into the protocol's,
and the SDK's gRPC and V1 routes led into the same path. What does not: how any single step is done.

    request → version → contract → signature → worker thread: session → check → response
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any

import kserve
from grpc_interceptor import exceptions as grpc_errors
from kserve.errors import InferenceError, InvalidInput, ModelNotReady
from kserve.protocol.infer_type import to_http_parameters

from oip import errors as oip_errors
from oip.errors import OipError
from oip.messages import (
    CallContext,
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    ServerMetadata,
    Tensor,
)
from predictor import v1
from predictor.errors import ContractMismatch, InferenceFailed, Overloaded, PredictorError, SignatureError
from predictor.loaded import LoadedModel
from predictor.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import TensorMetadata
    from predictor.settings import Settings

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""A full queue empties within a second at any sensible setting; the header knows whole seconds only."""

UNLOAD_S = 5.0
"""How long a run whose client has given up may hold up the end of the process; to leave it behind would abort it."""

_GRPC_ERRORS: Mapping[type[OipError], type[grpc_errors.GrpcException]] = {
    oip_errors.InvalidRequest: grpc_errors.InvalidArgument,
    oip_errors.NotFound: grpc_errors.NotFound,
    oip_errors.Conflict: grpc_errors.FailedPrecondition,
    oip_errors.Unavailable: grpc_errors.Unavailable,
    oip_errors.DeadlineExceeded: grpc_errors.DeadlineExceeded,
}
"""The protocol's error → what the SDK's gRPC interceptor turns into a status; anything else is INTERNAL."""


class OnnxModel(kserve.Model):
    """An ONNX model: the SDK's `Model`, and the `oip.messages.Backend` of the V2 application.

    Args:
        settings: Which model, and how it is run.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.model_name)
        self._settings = settings
        self._loaded: LoadedModel | None = None
        self._workers = WorkerPool(settings.execution_threads_or_quota, settings.max_queue)

    def load(self) -> bool:
        """Load the model and warm it up; only then is it ready.

        Raises:
            PredictorError: It cannot be served.
        """
        self._loaded = LoadedModel.load(self._settings)
        self.ready = True
        logger.info("model %s version %s is ready: %s", self.name, self._loaded.artifact.version, self._loaded.digests)
        return True

    def stop(self) -> None:
        """Accept no more requests. The server has drained before, so that at most abandoned runs are waited for."""
        super().stop()
        self._workers.close(UNLOAD_S)

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """Answer one V2 request.

        Raises:
            OipError: 400 naming the field, 404, 409 with the model's `contract_digest`, 500, 503 with Retry-After.
        """
        loaded = self._addressed(model_name, version)
        try:
            return await self._answer(loaded, request)
        except PredictorError as error:
            raise _translated(error, loaded, context) from error

    async def _answer(self, loaded: LoadedModel, request: InferRequest) -> InferResponse:
        loaded.check_contract(request.parameters)
        arrays = loaded.signature.arrays(request.inputs)
        names = loaded.signature.output_names(request.outputs)
        results = await self._workers.submit(loaded.session.run, arrays, names)
        loaded.signature.check_results(names, results)
        return InferResponse(
            model_name=self.name,
            model_version=loaded.artifact.version,
            id=request.id,
            outputs=tuple(map(Tensor, names, results)),
            parameters=loaded.digests,
        )

    def _addressed(self, model_name: str, version: str | None) -> LoadedModel:
        """The loaded model that the URL means; `NotFound` or `Unavailable` if it is not to be had."""
        if model_name != self.name:
            raise oip_errors.NotFound(f"there is no model '{model_name}'")
        if self._loaded is None or not self.ready:
            raise oip_errors.Unavailable(f"the model '{self.name}' is not ready", retry_after_s=RETRY_AFTER_S)
        if version not in {None, self._loaded.artifact.version}:
            raise oip_errors.NotFound(
                f"the model '{self.name}' has no version '{version}' here; it has {self._loaded.artifact.version}"
            )
        return self._loaded

    def server_metadata(self) -> ServerMetadata:
        """Name and version of this server."""
        return ServerMetadata(name="heimdall-predictor", version=metadata.version("heimdall-inference"))

    async def server_ready(self) -> bool:
        """Whether the model is loaded, warm, and not being stopped."""
        return self.ready

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether the model is ready; raises `NotFound` for another name or version."""
        try:
            self._addressed(model_name, version)
        except oip_errors.Unavailable:
            return False
        return True

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """The model's inputs, outputs, version, digests and contract."""
        return self._addressed(model_name, version).metadata(self.name)

    # What the SDK's own routes call: gRPC with its InferRequest, V1 with whatever JSON came.

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs in the form of the SDK's gRPC metadata."""
        return [_sdk_metadata(one) for one in self._loaded.session.inputs] if self._loaded else []

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs in the form of the SDK's gRPC metadata."""
        return [_sdk_metadata(one) for one in self._loaded.session.outputs] if self._loaded else []

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None
    ) -> kserve.InferResponse | dict[str, list[object]]:
        """Answer a gRPC or a V1 request on the same path as V2 over HTTP."""
        context = self._context(headers or {})
        if isinstance(payload, kserve.InferRequest):
            return await self._predict_grpc(payload, context)
        return await self._predict_v1(payload, context)

    async def _predict_grpc(self, payload: kserve.InferRequest, context: CallContext) -> kserve.InferResponse:
        try:
            request = _request_from_sdk(payload)
            return _response_to_sdk(await self._within_deadline(payload.model_version or None, request, context))
        except OipError as error:
            raise _GRPC_ERRORS.get(type(error), grpc_errors.Internal)(error.message) from error

    async def _predict_v1(self, payload: object, context: CallContext) -> dict[str, list[object]]:
        try:
            loaded = self._addressed(self.name, None)
            request = InferRequest(inputs=(v1.decode(payload, loaded.session.inputs),))
            return v1.encode((await self._within_deadline(None, request, context)).outputs)
        except (SignatureError, oip_errors.InvalidRequest) as error:
            raise InvalidInput(str(error)) from error
        except oip_errors.Unavailable as error:
            raise ModelNotReady(self.name, error.message) from error
        except (InferenceFailed, OipError) as error:
            raise InferenceError("the model failed on this request") from error

    async def _within_deadline(self, version: str | None, request: InferRequest, context: CallContext) -> InferResponse:
        """`infer` under the deadline, which the V2 application otherwise keeps."""
        try:
            async with asyncio.timeout(context.deadline_s - time.monotonic()):
                return await self.infer(self.name, version, request, context)
        except TimeoutError as error:
            raise oip_errors.DeadlineExceeded("the time budget of the request is used up") from error

    def _context(self, headers: Mapping[str, str]) -> CallContext:
        return CallContext(
            deadline_s=time.monotonic() + self._settings.request_timeout_s,
            request_id=headers.get("x-request-id") or uuid.uuid4().hex,
        )


def _translated(error: PredictorError, loaded: LoadedModel, context: CallContext) -> OipError:
    """The protocol's error for one of ours. The runtime's own words go to the log only."""
    if isinstance(error, SignatureError):
        return oip_errors.InvalidRequest(str(error))
    if isinstance(error, ContractMismatch):
        own = loaded.contract
        return oip_errors.Conflict(str(error), details={"contract_digest": own.digest} if own else None)
    if isinstance(error, Overloaded):
        return oip_errors.Unavailable(str(error), retry_after_s=RETRY_AFTER_S)
    logger.error("request %s: the model failed: %s", context.request_id, error)
    return oip_errors.InternalError("the model failed on this request")


def _sdk_metadata(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _request_from_sdk(payload: kserve.InferRequest) -> InferRequest:
    return InferRequest(
        inputs=tuple(_tensor_from_sdk(index, one) for index, one in enumerate(payload.inputs)),
        id=payload.id or None,
        parameters=to_http_parameters(payload.parameters or {}),
        outputs=tuple(RequestedOutput(one.name) for one in payload.request_outputs or ()),
    )


def _tensor_from_sdk(index: int, tensor: kserve.InferInput) -> Tensor:
    """The SDK checks little: what it trips over here is the client's mistake."""
    if any(size < 0 for size in tensor.shape):
        raise oip_errors.InvalidRequest(f"inputs[{index}].shape: {tensor.shape} has a negative dimension")
    try:
        return Tensor(tensor.name, tensor.as_numpy())
    except (InvalidInput, ValueError, TypeError, OverflowError, struct.error) as error:
        raise oip_errors.InvalidRequest(
            f"inputs[{index}]: the content of '{tensor.name}' is not a {tensor.datatype} tensor of shape {tensor.shape}"
        ) from error


def _response_to_sdk(response: InferResponse) -> kserve.InferResponse:
    outputs = [kserve.InferOutput(one.name, list(one.shape), one.datatype) for one in response.outputs]
    for output, tensor in zip(outputs, response.outputs, strict=True):
        output.set_data_from_numpy(tensor.array, binary_data=True)
    return kserve.InferResponse(
        response_id=response.id or "",
        model_name=response.model_name,
        model_version=response.model_version,
        infer_outputs=outputs,
        parameters=dict(response.parameters),
    )
