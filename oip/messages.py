"""The protocol's messages as frozen values.

What belongs here: tensors, requests, responses, metadata, and the datatype table. What does not: bytes, JSON and
HTTP (`codec`, `asgi`), or anything that a particular model means by its tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from oip.errors import InvalidRequest

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Mapping, Sequence

Parameter = bool | int | float | str
"""What the protocol allows as the value of a parameter."""

Array = np.ndarray[Any, np.dtype[Any]]

NO_PARAMETERS: Mapping[str, Parameter] = MappingProxyType({})


def _no_parameters() -> Mapping[str, Parameter]:
    """The default of fields: before Python 3.12 a mappingproxy has no hash, and dataclasses refuse it as one."""
    return NO_PARAMETERS


DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype("u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "BYTES": np.dtype(object),
    }
)
"""V2 datatype → numpy dtype, little-endian as on the wire. BYTES tensors are object arrays of `bytes`."""

_DATATYPES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array. Its dtype is one of `DTYPES`; the array may be a read-only view of the request's body."""

    name: str
    array: Array
    parameters: Mapping[str, Parameter] = field(default_factory=_no_parameters)

    @property
    def datatype(self) -> str:
        """The V2 datatype; `KeyError` for a dtype that the protocol does not have."""
        return _DATATYPES[self.array.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return tuple(self.array.shape)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One entry of a request's `outputs`; `binary` is None where the request's default decides."""

    name: str
    binary: bool | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=_no_parameters)


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One inference request.

    Attributes:
        inputs: The input tensors, in the client's order.
        id: Echoed in the response.
        parameters: Request parameters without `binary_data_output`.
        outputs: What the client asks for; empty means every output.
        binary_output: Whether outputs that do not say otherwise are sent as binary tensors.
    """

    inputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=_no_parameters)
    outputs: tuple[RequestedOutput, ...] = ()
    binary_output: bool = False

    def input(self, name: str) -> Tensor:
        """The input of that name; raises `InvalidRequest` naming it if absent."""
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        raise InvalidRequest(f"inputs: the input '{name}' is missing")


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """One inference response."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str | None = None
    id: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=_no_parameters)

    def output(self, name: str) -> Tensor:
        """The output of that name; raises `KeyError` if absent."""
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, datatype and shape of an input or output; -1 stands for a dynamic axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model says about itself; `parameters` carry what the protocol has no field for (digests, contract)."""

    name: str
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    versions: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=_no_parameters)


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What a server says about itself."""

    name: str
    version: str
    extensions: Sequence[str] = field(default=("binary_tensor_data",))


@dataclass(frozen=True, slots=True)
class CallContext:
    """What travels with a request beside its content.

    Attributes:
        deadline_s: When the answer is worthless, on the clock of `time.monotonic()`.
        request_id: The client's `x-request-id`, or one made at the edge.
        traceparent: W3C trace context, passed on unchanged.
        tracestate: W3C trace context, passed on unchanged.
        watch: Makes a future fail with an error that is nobody's business once the client has gone; None where that
            cannot be known. It costs a task, so it is for work that has to wait, not for every request.
    """

    deadline_s: float
    request_id: str
    traceparent: str | None = None
    tracestate: str | None = None
    watch: Callable[[Future[Any]], None] | None = field(default=None, compare=False)


class Backend(Protocol):
    """What the ASGI application needs from a component. Methods raise `OipError` and nothing else on purpose."""

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        ...

    async def server_ready(self) -> bool:
        """Whether every model is ready."""
        ...

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """Whether this model (in this version, if given) is ready; raises `NotFound` if there is none."""
        ...

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """The model's description; raises `NotFound` if there is none."""
        ...

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """Answer one request; outputs are exactly those asked for, in the order asked for."""
        ...
