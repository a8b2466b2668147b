"""Foreign clients, as their users have them: what they send comes back, and errors reach them as errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import kserve
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from open_inference.openapi.client import AsyncOpenInferenceClient, OpenInferenceClient
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from tests.conformance.conftest import Target

    Arrays = dict[str, np.ndarray[Any, Any]]

pytestmark = pytest.mark.profile("own")


def _arrays(target: Target) -> Arrays:
    """An array for each datatype, [3, 2]."""
    made: Arrays = {}
    for tensor in target.metadata["inputs"]:
        numbers = np.arange(6).reshape(3, 2)
        dtype = tensor["datatype"].lower().replace("fp", "float")
        if dtype == "bytes":
            made["BYTES"] = np.array([f"é{number}".encode() for number in range(6)], object).reshape(3, 2)
        else:
            made[tensor["datatype"]] = (numbers % 2 if dtype == "bool" else numbers).astype(dtype)
    return made


def _same(name: str, got: np.ndarray[Any, Any], sent: Arrays) -> bool:
    if name == "BYTES":  # JSON has strings, binary has bytes
        return [one if isinstance(one, bytes) else one.encode() for one in got.ravel()] == sent[name].ravel().tolist()
    return bool(got.dtype == sent[name].dtype) and np.array_equal(got, sent[name])


def _triton_request(arrays: Arrays, *, binary: bool) -> dict[str, Any]:
    inputs = [triton.InferInput(f"in_{name}", array.shape, name) for name, array in arrays.items()]
    for tensor, array in zip(inputs, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array, binary_data=binary)
    outputs = [triton.InferRequestedOutput(f"out_{name}", binary_data=binary) for name in arrays]
    return {"inputs": inputs, "outputs": outputs, "request_id": "r1"}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient(target: Target, compression: str | None, *, binary: bool) -> None:
    """tritonclient.http: every datatype in both encodings, compressed or not; readiness and metadata."""
    arrays = _arrays(target)
    with triton.InferenceServerClient(target.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(target.model_name)
        assert client.get_model_metadata(target.model_name)["name"] == target.model_name
        request = _triton_request(arrays, binary=binary)
        answer = client.infer(target.model_name, **request, request_compression_algorithm=compression)
    assert all(_same(name, answer.as_numpy(f"out_{name}"), arrays) for name in arrays)
    assert answer.get_response()["id"] == "r1"


def test_tritonclient_sees_the_message(target: Target) -> None:
    """tritonclient.http reads `error` of the error object."""
    with triton.InferenceServerClient(target.url.removeprefix("http://")) as client:
        wrong = triton.InferInput("in_FP32", [1, 3], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
        with pytest.raises(InferenceServerException, match="inputs"):
            client.infer(target.model_name, [wrong])
        assert not client.is_model_ready("nope")


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_aio(target: Target, *, binary: bool) -> None:
    """tritonclient.http.aio: the same over aiohttp."""
    arrays = _arrays(target)
    async with triton_aio.InferenceServerClient(target.url.removeprefix("http://")) as client:
        assert await client.is_model_ready(target.model_name)
        answer = await client.infer(target.model_name, **_triton_request(arrays, binary=binary))
    assert all(_same(name, answer.as_numpy(f"out_{name}"), arrays) for name in arrays)


def _kserve_request(target: Target, arrays: Arrays, *, binary: bool) -> kserve.InferRequest:
    """FP16 is always binary: the client refuses to write it as JSON."""
    inputs = [kserve.InferInput(f"in_{name}", list(array.shape), name) for name, array in arrays.items()]
    for tensor, (name, array) in zip(inputs, arrays.items(), strict=True):
        tensor.set_data_from_numpy(array, binary_data=binary or name == "FP16")
    parameters = {"binary_data_output": True} if binary else None
    outputs = [kserve.protocol.infer_type.RequestedOutput(f"out_{name}") for name in arrays]
    if not binary:
        outputs[list(arrays).index("FP16")].parameters = {"binary_data": True}
    return kserve.InferRequest(target.model_name, inputs, "r1", parameters=parameters, request_outputs=outputs)


@pytest.mark.parametrize("binary", [True, False])
async def test_kserve_rest_client(target: Target, *, binary: bool) -> None:
    """kserve.InferenceRESTClient: every datatype in both encodings, readiness, and the error's message."""
    arrays = _arrays(target)
    async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(target.url)
        assert await client.is_server_ready(target.url)
        assert await client.is_model_ready(target.url, target.model_name)
        request = _kserve_request(target, arrays, binary=binary)
        answer = await client.infer(target.url, request, target.model_name)
        with pytest.raises(httpx.HTTPStatusError, match="inputs: at least one"):
            await client.infer(target.url, {"inputs": []}, target.model_name)
    assert all(_same(one.datatype, one.as_numpy(), arrays) for one in answer.outputs)
    assert (len(answer.outputs), answer.id) == (len(arrays), "r1")


async def test_kserve_grpc_client(target: Target) -> None:
    """kserve.InferenceGRPCClient: every datatype as raw bytes."""
    arrays = _arrays(target)
    client = kserve.InferenceGRPCClient(target.grpc)
    assert await client.is_model_ready(target.model_name)
    answer = await client.infer(_kserve_request(target, arrays, binary=True))
    await client.close()
    assert all(_same(one.datatype, one.as_numpy(), arrays) for one in answer.outputs)


REQUEST = InferenceRequest(
    id="r1",
    inputs=[
        RequestInput(name="in_FP32", shape=[1, 2], datatype="FP32", data=[[1.5, -2]]),
        RequestInput(name="in_BYTES", shape=[1, 2], datatype="BYTES", data=["é", "b"]),
    ],
    outputs=[RequestOutput(name="out_BYTES"), RequestOutput(name="out_FP32")],
)
"""The generated client writes every number as a float, booleans and digits in strings included: so FP and text only."""


def test_open_inference_client(guarded: Target) -> None:
    """open-inference-openapi, generated from the protocol's own OpenAPI text: metadata, inference, typed errors."""
    client = OpenInferenceClient(base_url=guarded.url)
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness("echo")
    client.check_model_version_readiness("echo", "1")
    assert client.read_server_metadata().extensions
    assert client.read_model_metadata("echo").versions == ["1"]
    answer = client.model_infer("echo", request=REQUEST)
    assert client.model_version_infer("echo", "1", request=REQUEST) == answer
    assert [one.data.dict()["__root__"] for one in answer.outputs] == [["é", "b"], [1.5, -2]]
    assert (answer.id, answer.model_version) == ("r1", "1")
    with pytest.raises(NotFoundError):
        client.check_model_readiness("nope")
    with pytest.raises(BadRequestError, match="inputs"):
        client.model_infer("echo", request=InferenceRequest(inputs=[]))
    client._client_wrapper.httpx_client.close()  # noqa: SLF001 - the client has no way to be closed


async def test_open_inference_client_async(guarded: Target) -> None:
    """Its asynchronous half."""
    async with httpx.AsyncClient() as transport:
        client = AsyncOpenInferenceClient(base_url=guarded.url, httpx_client=transport)
        answer = await client.model_infer("echo", request=REQUEST)
    assert [one.name for one in answer.outputs] == ["out_BYTES", "out_FP32"]
