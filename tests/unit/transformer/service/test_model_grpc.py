from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import kserve
import numpy as np
import pytest
from grpc_interceptor import exceptions as grpc_errors
from kserve.errors import InvalidInput

from transformer.errors import PredictorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import Array
    from transformer.model import LocalizationTransformer

    MakeModel = Callable[..., LocalizationTransformer]


def _grpc(iq: Array, **members: Any) -> kserve.InferRequest:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    tensor = kserve.InferInput("iq", list(iq.shape), "FP32")
    tensor.set_data_from_numpy(iq, binary_data=True)
    return kserve.InferRequest("localization", [tensor], request_id="7", **members)


async def test_grpc(model: LocalizationTransformer, predictor: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A gRPC message goes the same way; its request id is passed on, or made up."""
    response = await model.predict(_grpc(iq), {"x-request-id": "an-id"})
    await model.predict(_grpc(iq * np.float32(0.9), model_version="3"))
    assert (response.id, response.model_version) == ("7", "3")
    assert response.outputs[0].as_numpy().tolist() == [[45.0, 8.0]]
    first, second = (sent.request_id for _, sent in predictor.requests)
    assert first == "an-id"
    assert len(second) == 32


async def test_grpc_errors(make_model: MakeModel, predictor: Any, iq: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Each error has a gRPC status; V1, which cannot carry samples, is refused."""
    model = make_model()
    with pytest.raises(grpc_errors.InvalidArgument):
        await model.predict(_grpc(np.zeros_like(iq)))
    with pytest.raises(grpc_errors.NotFound):
        await model.predict(_grpc(iq, model_version="9"))
    with pytest.raises(InvalidInput, match="V1 is not spoken here"):
        await model.predict({"instances": []})
    model = make_model(request_timeout_s=0.05)
    predictor.hold = asyncio.Event()
    with pytest.raises(grpc_errors.DeadlineExceeded):
        await model.predict(_grpc(iq))
    predictor.hold = None
    predictor.error = PredictorUnreachable("gone")
    model = make_model()
    with pytest.raises(grpc_errors.Unavailable):
        await model.predict(_grpc(iq))


async def test_grpc_is_counted(
    make_model: MakeModel,
    predictor: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    counted: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    iq: Array,
) -> None:
    """Every end of a call counts once, also that of a client which gave up: that one not as the service's failure."""
    model = make_model()
    await model.predict(_grpc(iq))
    with pytest.raises(grpc_errors.InvalidArgument):
        await model.predict(_grpc(np.zeros_like(iq)))
    predictor.hold = asyncio.Event()
    task = asyncio.ensure_future(model.predict(_grpc(iq * np.float32(0.5))))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    predictor.hold = None
    predictor.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await model.predict(_grpc(iq * np.float32(0.7)))
    labels = {"model": "localization", "version": ""}
    assert counted("requests", **labels | {"version": "3"}, code="200") == 1
    assert [counted("requests", **labels, code=code) for code in ("422", "499", "500")] == [1, 1, 1]
