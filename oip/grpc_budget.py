"""The limit of `body_budget` for messages of gRPC, so that both protocols together hold no more than that.

What belongs here: what a message counts for, and until when. What does not: the server that takes it (`kserve_server`),
and the limit of one message, which is the SDK's.

A message counts before it is parsed: tensors whose values lie in typed fields become Python objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]  # ships no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from oip.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oip.body_budget import BudgetedApplication, Share

MAX_RPCS = 128
"""Calls at once; one more is RESOURCE_EXHAUSTED. Room for a hundred clients that come together, as in the queue behind;
and of each no more than one message (the SDK's 8 MiB) is in memory before it counts."""

TYPED_TIMES = 18
"""What a message with typed contents takes of memory, in its own size, where raw contents take twice theirs; measured
with 7.6 MiB: 12 times for FP32, 17 for whole numbers, 24 for empty texts."""


class BudgetedMessages(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the base class ships no types
    """Gives every call a share of the budget, and takes it back when the call has ended. To be the outermost one.

    Args:
        budget: Of all bodies and messages.
    """

    def __init__(self, budget: BudgetedApplication) -> None:
        self._budget = budget

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """The handler of the method, called with what has been counted."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        answer, parse = handler.unary_unary, handler.request_deserializer

        async def counted(message: bytes, context: grpc.aio.ServicerContext) -> object:
            with self._budget.share() as share:
                try:
                    request = _read(message, parse, share)
                except Unavailable as error:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
                except DecodeError:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read")
                return await answer(request, context)

        return grpc.unary_unary_rpc_method_handler(counted, response_serializer=handler.response_serializer)


def _read(message: bytes, parse: Callable[[bytes], Any], share: Share) -> Any:  # noqa: ANN401 - any message of the protocol
    share.take(len(message))
    request = parse(message)
    if any(one.HasField("contents") for one in getattr(request, "inputs", ())):
        share.take((TYPED_TIMES - 1) * len(message))
    return request
