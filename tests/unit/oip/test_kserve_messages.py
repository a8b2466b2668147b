from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kserve
import numpy as np
import pytest
from grpc_interceptor import exceptions as grpc_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter, ModelInferRequest

from oip import errors
from oip.kserve_messages import grpc_error, request_from_sdk, response_to_sdk
from oip.messages import InferResponse, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.errors import OipError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidRequest, grpc_errors.InvalidArgument),
        (errors.Unprocessable, grpc_errors.InvalidArgument),
        (errors.NotFound, grpc_errors.NotFound),
        (errors.Conflict, grpc_errors.FailedPrecondition),
        (errors.Unavailable, grpc_errors.Unavailable),
        (errors.DeadlineExceeded, grpc_errors.DeadlineExceeded),
        (errors.InternalError, grpc_errors.Internal),
        (errors.BadUpstream, grpc_errors.Internal),
    ],
)
def test_each_error_has_a_grpc_status(error: type[OipError], kind: type[grpc_errors.GrpcException]) -> None:
    """The nearest status and the same words."""
    answer = grpc_error(error("words"))
    assert (type(answer), answer.details) == (kind, "words")


def test_a_request() -> None:
    """Id, parameters, outputs asked for and raw contents arrive as they were sent."""
    message = ModelInferRequest(model_name="m", id="9")
    message.parameters["contract_digest"].CopyFrom(InferParameter(string_param="sha256:0"))
    message.parameters["cache"].CopyFrom(InferParameter(bool_param=False))
    message.outputs.add(name="y")
    message.inputs.add(name="x", datatype="INT16", shape=[2])
    message.raw_input_contents.append(np.int16([1, -2]).tobytes())
    request = request_from_sdk(kserve.InferRequest.from_grpc(message))
    assert (request.id, dict(request.parameters)) == ("9", {"contract_digest": "sha256:0", "cache": False})
    assert [output.name for output in request.outputs] == ["y"]
    assert request.input("x").array.tolist() == [1, -2]


def test_what_is_left_out() -> None:
    """No id, parameters and outputs are none, and not empty texts."""
    request = request_from_sdk(kserve.InferRequest("m", []))
    assert (request.inputs, request.parameters, request.outputs) == ((), {}, ())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"shape": [-1, 3], "data": [1.0, 2.0, 3.0]}, r"inputs\[0\]\.shape: \[-1, 3\] has a negative dimension"),
        ({"shape": [1, 3], "data": [1.0, 2.0]}, r"inputs\[0\]: the content of 'x' is not a FP32 tensor"),
        ({"shape": [1], "datatype": "FP99", "data": [1.0]}, "FP99"),
        ({"shape": [1], "datatype": "UINT8", "data": [300]}, "UINT8"),
        ({"shape": [1], "data": ["a"]}, "FP32"),
    ],
)
def test_mistakes(members: dict[str, Any], message: str) -> None:
    """What the SDK trips over is the client's mistake, with the input's place and name."""
    tensor = kserve.InferInput(**({"name": "x", "datatype": "FP32"} | members))
    with pytest.raises(errors.InvalidRequest, match=message):
        request_from_sdk(kserve.InferRequest("m", [tensor]))


@settings(max_examples=50)
@given(data=st.data())
def test_responses_survive_the_sdk(data: st.DataObject, tensors: Callable[..., Any]) -> None:
    """Tensors of every datatype come back bit for bit through the SDK's gRPC form."""
    sent = data.draw(tensors)  # type: ignore[arg-type]  # the fixture is a strategy
    message = response_to_sdk(InferResponse("m", sent, "3", "7", {"arm": "stable"})).to_grpc()
    answer = kserve.InferResponse.from_grpc(message)
    assert (answer.id, answer.model_version) == ("7", "3")
    assert answer.parameters["arm"].string_param == "stable"
    for output, tensor in zip(answer.outputs, sent, strict=True):
        assert output.datatype == tensor.datatype
        if tensor.array.size:
            _same(output.as_numpy(), tensor)


def _same(received: Any, tensor: Tensor) -> None:  # noqa: ANN401 - an array
    if tensor.datatype == "BYTES":
        texts = [item.encode() if isinstance(item, str) else item for item in received.flat]
        assert texts == list(tensor.array.flat)
    else:
        assert received.tobytes() == tensor.array.tobytes()
