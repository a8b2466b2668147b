"""The SDK's message types to this package's and back; needed by its gRPC routes only.

What belongs here: `kserve.InferRequest` ⇄ `InferRequest`, the call's context, and the gRPC status of each protocol
error. What does not: the HTTP data path, which never meets the SDK's types.
"""

from __future__ import annotations

import struct
import time
import uuid
from typing import TYPE_CHECKING, Any

import kserve
from grpc_interceptor import exceptions as grpc_errors
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import to_http_parameters

from oip import errors
from oip.messages import CallContext, InferRequest, InferResponse, RequestedOutput, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import TensorMetadata

GRPC_METHOD = "inference.GRPCInferenceService/ModelInfer"
"""The protocol's name of an inference request; a span's name by OpenTelemetry's conventions for RPC."""

_GRPC_ERRORS: Mapping[type[errors.OipError], type[grpc_errors.GrpcException]] = {
    errors.InvalidRequest: grpc_errors.InvalidArgument,
    errors.Unprocessable: grpc_errors.InvalidArgument,
    errors.NotFound: grpc_errors.NotFound,
    errors.Conflict: grpc_errors.FailedPrecondition,
    errors.NotImplementedHere: grpc_errors.Unimplemented,
    errors.Unavailable: grpc_errors.Unavailable,
    errors.DeadlineExceeded: grpc_errors.DeadlineExceeded,
}
"""The protocol's error → what the SDK's gRPC interceptor turns into a status; anything else is INTERNAL."""


def grpc_error(error: errors.OipError) -> grpc_errors.GrpcException:
    """The exception that gives the gRPC client the status nearest to the HTTP one."""
    return _GRPC_ERRORS.get(type(error), grpc_errors.Internal)(error.message)


def context_from_sdk(headers: Mapping[str, str], timeout_s: float) -> CallContext:
    """The deadline and identity of a call that came by the SDK's routes.

    Args:
        headers: HTTP's, or gRPC's metadata.
        timeout_s: Time budget of a request.
    """
    return CallContext(
        deadline_s=time.monotonic() + timeout_s,
        request_id=headers.get("x-request-id") or uuid.uuid4().hex,
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
    )


def metadata_to_sdk(tensors: Sequence[TensorMetadata]) -> list[dict[str, Any]]:
    """Inputs or outputs in the form of the SDK's gRPC metadata."""
    return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]


def request_from_sdk(payload: kserve.InferRequest) -> InferRequest:
    """Read the SDK's request; raises `InvalidRequest` naming the input that cannot be read."""
    return InferRequest(
        inputs=tuple(_tensor_from_sdk(index, one) for index, one in enumerate(payload.inputs)),
        id=payload.id or None,
        parameters=to_http_parameters(payload.parameters or {}),
        outputs=tuple(RequestedOutput(one.name) for one in payload.request_outputs or ()),
    )


def _tensor_from_sdk(index: int, tensor: kserve.InferInput) -> Tensor:
    """The SDK checks little: what it trips over here is the client's mistake."""
    if any(size < 0 for size in tensor.shape):
        raise errors.InvalidRequest(f"inputs[{index}].shape: {tensor.shape} has a negative dimension")
    try:
        return Tensor(tensor.name, tensor.as_numpy())
    except (InvalidInput, ValueError, TypeError, OverflowError, struct.error) as error:
        raise errors.InvalidRequest(
            f"inputs[{index}]: the content of '{tensor.name}' is not a {tensor.datatype} tensor of shape {tensor.shape}"
        ) from error


def response_to_sdk(response: InferResponse) -> kserve.InferResponse:
    """Write the SDK's response, its tensors as raw bytes."""
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
