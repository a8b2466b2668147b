from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import kserve
import numpy as np
import pytest
from grpc_interceptor import exceptions as grpc_errors
from kserve.errors import InferenceError, InvalidInput, ModelNotReady
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter, ModelInferRequest
from onnx import TensorProto

from oip import errors as oip_errors
from oip.messages import InferRequest, RequestedOutput, Tensor
from predictor.contract import METADATA_KEY, Contract
from predictor.errors import ArtifactError, WarmUpFailed
from predictor.model import OnnxModel
from predictor.session import Session
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oip.messages import CallContext

    MakeModel = Callable[..., OnnxModel]

X = np.array([[1, 2, 3]], np.float32)
CONTRACT = Contract.parse('{"schema": "a/1"}', "a test")


@pytest.fixture
def make(tmp_path: Path, write_model: Callable[..., Path]) -> Iterator[MakeModel]:
    """Writes a graph of conftest.py, and loads it as the model `m`."""
    made: list[OnnxModel] = []

    def make(name: str, *args: object, props: dict[str, str] | None = None, **settings: Any) -> OnnxModel:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        write_model(name, tmp_path / "model.onnx", *args, props=props)
        settings = {"execution_threads": 1, "session_threads": 1, "inline_run_us": 0} | settings
        made.append(OnnxModel(Settings(model_name="m", model_dir=tmp_path, **settings)))
        made[-1].load()
        return made[-1]

    yield make
    for model in made:
        model.stop()


def _request(x: Any = X, *outputs: str, **parameters: Any) -> InferRequest:  # noqa: ANN401 - any array, any parameter
    requested = tuple(RequestedOutput(name) for name in outputs)
    return InferRequest(inputs=(Tensor("x", x),), id="7", outputs=requested, parameters=parameters)


async def test_an_answer(make: MakeModel, context: CallContext) -> None:
    """The answer carries values, id, version and digest."""
    model = make("identity", model_version="5")
    response = await model.backend.infer("m", "5", _request(), context)
    assert (response.model_name, response.model_version, response.id) == ("m", "5", "7")
    assert response.output("y").array.tolist() == X.tolist()
    assert list(response.parameters) == ["model_digest"]


async def test_outputs_in_the_order_asked_for(make: MakeModel, context: CallContext) -> None:
    """Exactly the outputs asked for, in that order."""
    inputs = (Tensor("b", X), Tensor("a", X))
    request = InferRequest(inputs=inputs, outputs=(RequestedOutput("first"), RequestedOutput("total")))
    response = await make("add").backend.infer("m", None, request, context)
    assert [(one.name, float(one.array.sum())) for one in response.outputs] == [("first", 6.0), ("total", 12.0)]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("other", None, "there is no model 'other'"), ("m", "2", "'m' has no version '2' here; it has 1")],
)
async def test_another_address(
    make: MakeModel, context: CallContext, name: str, version: str | None, message: str
) -> None:
    """Another name or version is 404 for inference, readiness and metadata alike."""
    model = make("identity")
    for call in (
        model.backend.infer(name, version, _request(), context),
        model.backend.model_ready(name, version),
        model.backend.model_metadata(name, version),
    ):
        with pytest.raises(oip_errors.NotFound, match=message):
            await call


async def test_before_and_after(tmp_path: Path, write_model: Callable[..., Path], context: CallContext) -> None:
    """A model is ready from the end of `load` until `stop`; outside of that the answer is 503."""
    write_model("identity", tmp_path / "model.onnx")
    model = OnnxModel(Settings(model_name="m", model_dir=tmp_path))
    states = [await model.backend.model_ready("m", None)]
    assert (model.get_input_types(), model.get_output_types()) == ([], [])
    model.load()
    states.append(await model.backend.model_ready("m", "1") and await model.backend.server_ready())
    model.stop()
    states.append(await model.backend.model_ready("m", None))
    assert states == [False, True, False]
    with pytest.raises(oip_errors.Unavailable):
        await model.backend.infer("m", None, _request(), context)


def test_a_model_that_cannot_be_loaded_is_not_ready(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """Corrupt files and a failed warm-up raise, and leave the model not ready."""
    model = OnnxModel(Settings(model_dir=tmp_path, warmup_batch_sizes=(1,)))
    (tmp_path / "model.onnx").write_text("nonsense")
    with pytest.raises(ArtifactError):
        model.load()
    write_model("square", tmp_path / "model.onnx")
    with pytest.raises(WarmUpFailed):
        model.load()
    assert not model.ready
    model.stop()


async def test_metadata(make: MakeModel, tmp_path: Path) -> None:
    """Metadata tells platform, tensors, version, digests and the contract's canonical text."""
    model = make("identity", TensorProto.INT64, ["n", 2], props={METADATA_KEY: '{"schema":  "a/1"}'})
    told = await model.backend.model_metadata("m", None)
    assert (told.name, told.platform, told.versions) == ("m", "onnxruntime_onnx", ("1",))
    assert [(one.name, one.datatype, one.shape) for one in (*told.inputs, *told.outputs)] == [
        ("x", "INT64", (-1, 2)),
        ("y", "INT64", (-1, 2)),
    ]
    assert told.parameters["contract"] == CONTRACT.text
    assert told.parameters["contract_digest"] == CONTRACT.digest
    assert str(told.parameters["model_digest"]).startswith("sha256:")
    (tmp_path / "contract.json").write_text('{"b":1}')
    await model.backend.catalog.reload()
    assert (await model.backend.model_metadata("m", None)).parameters["contract"] == '{"b":1}'
    assert model.get_input_types() == [{"name": "x", "datatype": "INT64", "shape": [-1, 2]}]
    assert model.get_output_types() == [{"name": "y", "datatype": "INT64", "shape": [-1, 2]}]
    assert model.backend.server_metadata().name == "heimdall-predictor"


async def test_contract_digest(make: MakeModel, context: CallContext) -> None:
    """A request built for the model's contract is answered and told the digest; for another it is 409 with ours."""
    model = make("identity", props={METADATA_KEY: CONTRACT.text})
    for parameters in ({}, {"contract_digest": CONTRACT.digest}):
        response = await model.backend.infer("m", None, _request(**parameters), context)
        assert response.parameters["contract_digest"] == CONTRACT.digest
    with pytest.raises(oip_errors.Conflict, match="built for sha256:0") as caught:
        await model.backend.infer("m", None, _request(contract_digest="sha256:0"), context)
    assert caught.value.details == {"contract_digest": CONTRACT.digest}


async def test_contract_digest_without_a_contract(make: MakeModel, context: CallContext) -> None:
    """A model without a contract refuses a request that was built for one."""
    with pytest.raises(oip_errors.Conflict, match="has no contract") as caught:
        await make("identity").backend.infer("m", None, _request(contract_digest=CONTRACT.digest), context)
    assert caught.value.details == {}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (_request(X.astype(np.float64)), r"inputs\[0\]\.datatype"),
        (_request(X[0]), r"inputs\[0\]\.shape"),
        (_request(X, "z"), r"outputs\[0\]\.name"),
        (InferRequest(inputs=()), "inputs: missing 'x'"),
    ],
)
async def test_the_clients_mistakes(
    make: MakeModel, context: CallContext, request_: InferRequest, message: str
) -> None:
    """Whatever does not fit the model is 400 and names the field."""
    with pytest.raises(oip_errors.InvalidRequest, match=message):
        await make("identity").backend.infer("m", None, request_, context)


async def test_the_models_failure(make: MakeModel, context: CallContext, caplog: pytest.LogCaptureFixture) -> None:
    """A failure inside the model is 500; its words are in the log with the request's id, not in the answer."""
    model = make("square", warmup_batch_sizes=())
    with caplog.at_level(logging.ERROR), pytest.raises(oip_errors.InternalError) as caught:
        await model.backend.infer("m", None, _request(np.ones(3, np.float32)), context)
    assert caught.value.message == "the model failed on this request"
    assert "request a-request: the model failed: " in caplog.text
    assert "Reshape" in caplog.text


async def test_non_finite_outputs_pass(make: MakeModel, context: CallContext) -> None:
    """Whether NaN and infinity may be sent depends on the encoding; the model's answer is not touched."""
    response = await make("log").backend.infer("m", None, _request(X * 0), context)
    assert np.isneginf(response.output("y").array).all()


async def test_a_full_queue(make: MakeModel, context: CallContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond workers and queue the answer is 503 with Retry-After, at once, while the loop is free."""
    model, release = make("identity", max_queue=1), threading.Event()
    real = Session.run
    monkeypatch.setattr(Session, "run", lambda self, *args: release.wait(5.0) and real(self, *args))
    accepted = [asyncio.ensure_future(model.backend.infer("m", None, _request(), context)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(oip_errors.Unavailable) as caught:
        await model.backend.infer("m", None, _request(), context)
    assert caught.value.retry_after_s == 1
    release.set()
    assert len(await asyncio.gather(*accepted)) == 2


# The SDK's gRPC and V1 routes


def _grpc(name: str = "x", array: np.ndarray[Any, Any] = X, **members: Any) -> kserve.InferRequest:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    datatype = {"f": "FP32", "i": "INT64", "O": "BYTES"}[array.dtype.kind]
    tensor = kserve.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=True)
    return kserve.InferRequest("m", [tensor], **members)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "BOOL", "BYTES"])
async def test_grpc(make: MakeModel, datatype: str) -> None:
    """A gRPC message goes the same way as V2 over HTTP, and back as raw contents, FP16 and text included."""
    kind = {"FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "BOOL": TensorProto.BOOL}.get(
        datatype, TensorProto.STRING
    )
    model = make("identity", kind, ["n"], props={METADATA_KEY: CONTRACT.text})
    x = (
        np.array([b"a", b"\xc3\xa9"], object)
        if kind == TensorProto.STRING
        else np.array([1, 0], f"{datatype[0]}".lower())
    )
    x = x.astype({"FP16": np.float16, "FP32": np.float32, "BOOL": np.bool_}.get(datatype, object))
    message = ModelInferRequest(model_name="m", id="9", model_version="1")
    message.parameters["contract_digest"].CopyFrom(InferParameter(string_param=CONTRACT.digest))
    message.outputs.add(name="y")
    message.inputs.add(name="x", datatype=datatype, shape=[2])
    message.raw_input_contents.append(b"\1\0\0\0a\2\0\0\0\xc3\xa9" if datatype == "BYTES" else x.tobytes())
    answer = kserve.InferResponse.from_grpc((await model.predict(kserve.InferRequest.from_grpc(message))).to_grpc())
    assert (answer.id, answer.model_version) == ("9", "1")
    assert answer.parameters["contract_digest"].string_param == CONTRACT.digest
    assert answer.outputs[0].as_numpy().tolist() == x.tolist()


def _broken(**members: Any) -> kserve.InferRequest:  # noqa: ANN401 - members of a tensor
    tensor = kserve.InferInput(**({"name": "x", "shape": [1, 3], "datatype": "FP32"} | members))
    return kserve.InferRequest("m", [tensor])


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [
        (_broken(shape=[-1, 3], data=[1.0, 2.0, 3.0]), grpc_errors.InvalidArgument, "negative"),
        (_broken(data=[1.0, 2.0]), grpc_errors.InvalidArgument, r"inputs\[0\]: the content of 'x'"),
        (_broken(datatype="FP99", data=[1.0]), grpc_errors.InvalidArgument, "FP99"),
        (_broken(datatype="UINT8", data=[1, 2, 300]), grpc_errors.InvalidArgument, "UINT8"),
        (_grpc("z"), grpc_errors.InvalidArgument, "no input 'z'"),
        (_grpc(model_version="2"), grpc_errors.NotFound, "no version '2'"),
        (_grpc(parameters={"contract_digest": "x"}), grpc_errors.FailedPrecondition, "no contract"),
    ],
)
async def test_grpc_mistakes(
    make: MakeModel, payload: kserve.InferRequest, error: type[Exception], message: str
) -> None:
    """Each error of the protocol becomes an exception that the SDK's interceptor turns into the right gRPC status."""
    with pytest.raises(error) as caught:
        await make("identity").predict(payload)
    assert re.search(message, str(caught.value))


async def test_grpc_failures(make: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overrun deadline, a full queue and a failing model have a gRPC status of their own."""
    model, release = make("identity", max_queue=0, request_timeout_s=0.05), threading.Event()
    monkeypatch.setattr(Session, "run", lambda *_: release.wait(5.0))
    slow = asyncio.ensure_future(model.predict(_grpc()))
    await asyncio.sleep(0)
    with pytest.raises(grpc_errors.Unavailable):
        await model.predict(_grpc())
    started_s = time.monotonic()
    with pytest.raises(grpc_errors.DeadlineExceeded):
        await slow
    assert time.monotonic() - started_s < 2
    release.set()


async def test_grpc_internal(make: MakeModel) -> None:
    """A failure inside the model is INTERNAL, without its words."""
    with pytest.raises(grpc_errors.Internal) as caught:
        await make("square", warmup_batch_sizes=()).predict(_grpc(array=np.ones(3, np.float32)))
    assert caught.value.details == "the model failed on this request"


async def test_v1(make: MakeModel) -> None:
    """V1 rows go the same way too."""
    assert await make("identity").predict({"instances": X.tolist()}, {}) == {"predictions": X.tolist()}


async def test_v1_errors(make: MakeModel) -> None:
    """V1 has statuses for the client's mistake, for not ready and for a failure."""
    model = make("log")
    for wrong in ({"rows": []}, {"instances": [[1, 2]]}, b"\0"):
        with pytest.raises(InvalidInput, match=r"instances|shape"):
            await model.predict(wrong)
    with pytest.raises(InferenceError, match="the model failed on this request"):
        await model.predict({"instances": [[0, 0, 0]]})
    model.stop()
    with pytest.raises(ModelNotReady):
        await model.predict({"instances": X.tolist()})
