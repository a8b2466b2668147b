"""The limit for all bodies together, for messages of gRPC: a real server in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)

from oip.body_budget import BudgetedApplication
from oip.grpc_budget import TYPED_TIMES, BudgetedMessages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oip.http import Receive, Scope, Send

BUDGET_BYTES = 20_000


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # the SDK ships no types
    """Answers when it is told to, and notes what is held meanwhile."""

    def __init__(self, budget: BudgetedApplication) -> None:
        self.budget = budget
        self.held_bytes: list[int] = []
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: pb.ModelInferRequest, _context: object
    ) -> pb.ModelInferResponse:
        """The protocol's method."""
        self.held_bytes.append(self.budget.held_bytes)
        self.asked.set()
        await self.answer.wait()
        if request.id == "broken":
            raise RuntimeError
        return pb.ModelInferResponse(id=request.id)


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    pass


@pytest.fixture
async def served() -> AsyncIterator[tuple[Servicer, grpc.aio.Channel]]:
    """A server with the budget, and a channel to it."""
    budget = BudgetedApplication(_nothing, BUDGET_BYTES)
    servicer = Servicer(budget)
    server = grpc.aio.server(interceptors=(BudgetedMessages(budget),))
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


def _raw(size: int, request_id: str = "") -> pb.ModelInferRequest:
    return pb.ModelInferRequest(id=request_id, raw_input_contents=[bytes(size)])


async def _all_given_back(servicer: Any) -> bool:  # noqa: ANN401 - of the fixture
    """The client has its answer a moment before the server's call has come to its end."""
    for _ in range(100):
        if servicer.budget.held_bytes == 0:
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("request_id", ["good", "broken"])
async def test_messages(served: Any, request_id: str) -> None:  # noqa: ANN401 - of the fixture above
    """A message holds its size until it is answered, however that is; what does not fit beside it is UNAVAILABLE."""
    servicer, channel = served
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    first = asyncio.ensure_future(infer(_raw(15_000, request_id)))
    await asyncio.wait_for(servicer.asked.wait(), 5)
    assert 15_000 < servicer.held_bytes[0] < 15_100
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(_raw(6_000))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "too many bytes" in caught.value.details()
    servicer.answer.set()
    outcome = (await asyncio.gather(first, return_exceptions=True))[0]
    assert isinstance(outcome, grpc.aio.AioRpcError) is (request_id == "broken")
    assert await _all_given_back(servicer)
    await infer(_raw(15_000))


async def test_a_message_alone(served: Any) -> None:  # noqa: ANN401 - of the fixture above
    """It always fits: its own limit is that of one message."""
    servicer, channel = served
    servicer.answer.set()
    assert (await GRPCInferenceServiceStub(channel).ModelInfer(_raw(50_000, "7"))).id == "7"
    assert await _all_given_back(servicer)


async def test_typed_contents(served: Any) -> None:  # noqa: ANN401 - of the fixture above
    """Values in typed fields count for what they become."""
    servicer, channel = served
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", contents=pb.InferTensorContents(fp32_contents=[1.0] * 100))
    message = pb.ModelInferRequest(inputs=[tensor])
    servicer.answer.set()
    await GRPCInferenceServiceStub(channel).ModelInfer(message)
    assert servicer.held_bytes == [TYPED_TIMES * message.ByteSize()]


async def test_a_message_that_cannot_be_read(served: Any) -> None:  # noqa: ANN401 - of the fixture above
    """It is the client's mistake, and holds nothing."""
    servicer, channel = served
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await _all_given_back(servicer)


async def test_an_unknown_method(served: Any) -> None:  # noqa: ANN401 - of the fixture above
    """It stays one."""
    _, channel = served
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
