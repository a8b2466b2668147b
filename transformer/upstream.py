"""One exchange with an arm, repeated once where that can help.

What belongs here: which failures are repeated, where and when, and the count of every call. What does not: the
connection (`predictor_client`), the draw (`arms`), and what requests and answers mean.

    send ──▶ answer
      │ 409: the arm's contract is another one ──▶ build again, send to the same arm, once
      │ died before the first byte of an answer ──▶ pause if it is the same arm ──▶ send to the stable arm, once

Inference is pure, so a repetition is always safe; the budget keeps it from being harmful. A connection that the server
closed while it was idle looks like a crash (RFC 9112, section 9.3.1), and is charged like one: it is rare, because the
client gives a connection up after 30 s and the predictor after 65 s, and the budget's constant part covers it. The
reasons of a repetition are "connection" and "gateway": queue-proxy and the ingress answer for a predictor that
crashed (502, 503), the ingress also for a host that is gone (404), none of them with the protocol's error object.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from oip.errors import OipError
from transformer.errors import (
    BadContract,
    InvalidModelOutput,
    PredictorError,
    PredictorRefused,
    PredictorSilent,
    PredictorUnreachable,
)
from transformer.metrics import INVALID, TIMEOUT, UNREACHABLE
from transformer.predictor_client import AnswerCutShort, GatewayRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import CallContext, InferRequest, InferResponse
    from transformer.arms import Arm
    from transformer.metrics import Metrics
    from transformer.predictor_client import PredictorClient
    from transformer.retry_budget import RetryBudget

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)

_OK = "200"
_CONTRACT_CONFLICT = 409
_GATEWAY_STATUSES = frozenset({404, 502, 503})

SHORTEST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.1
"""Before asking the same arm again: another pod takes over within milliseconds, and a container's restart, about a
second, cannot be waited for. The pause is random, so that requests that failed together do not come together."""


class Exchange(Protocol[Answer_co]):
    """What is said to an arm, and how its answer is read. Both differ by arm, as versions differ in their contracts."""

    async def request(self, arm: Arm) -> InferRequest:
        """The request, built by the contract of this arm's model."""
        ...

    def read(self, arm: Arm, response: InferResponse) -> Answer_co:
        """The answer's meaning; raises `InvalidModelOutput`."""
        ...

    def outdated(self, arm: Arm) -> None:
        """Forget the contract of this arm's model: the arm says that it has another one."""
        ...


class Upstream:
    """Exchanges with the predictor's arms.

    Args:
        client: Calls one arm.
        budget: Allows repetitions.
        metrics: Counts every call.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        client: PredictorClient,
        budget: RetryBudget,
        metrics: Metrics,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._budget = budget
        self._metrics = metrics
        self._jitter = jitter

    async def infer(
        self, arm: Arm, fallback: Arm, exchange: Exchange[Answer], context: CallContext
    ) -> tuple[Answer, Arm]:
        """Ask an arm; if it dies, ask the fallback once, within the same deadline.

        Args:
            arm: The arm that was drawn or that the request is pinned to.
            fallback: The stable arm; the same arm again where the request is pinned to a version.
            exchange: Builds the request and reads the answer.
            context: Deadline and identity of the request.

        Returns:
            The answer, and the arm that gave it.

        Raises:
            PredictorError: No arm gave an answer; that of the last one asked.
            InvalidModelOutput: An answer makes no sense. It is not asked for again: the model would say the same.
            TransformerError: Whatever building the request raises.
        """
        self._budget.deposit()
        try:
            return await self._agreed(arm, exchange, context), arm
        except (PredictorUnreachable, PredictorRefused) as error:
            reason = _reason(error)
            pause_s = self._pause_s() if fallback == arm else 0.0
            if reason is None or not self._allowed(context.deadline_s - pause_s):
                raise
        await asyncio.sleep(pause_s)
        self._metrics.retried(reason)
        return await self._agreed(fallback, exchange, context), fallback

    async def _agreed(self, arm: Arm, exchange: Exchange[Answer], context: CallContext) -> Answer:
        """The arm's answer by a contract that both sides share; asked again once where theirs has changed."""
        try:
            return await self._sent(arm, exchange, context)
        except PredictorRefused as refusal:
            if refusal.status != _CONTRACT_CONFLICT:
                raise
        exchange.outdated(arm)
        return await self._sent(arm, exchange, context)

    async def _sent(self, arm: Arm, exchange: Exchange[Answer], context: CallContext) -> Answer:
        """One call, counted by what came of it."""
        began_s = time.perf_counter()
        try:
            request = await exchange.request(arm)  # may ask the arm for its contract, so it may fail like a call
            began_s = time.perf_counter()
            answer = exchange.read(arm, await self._client.infer(arm.base_url, request, context))
        except (PredictorError, BadContract, InvalidModelOutput, OipError) as error:
            self._metrics.upstream(arm, _code(error), time.perf_counter() - began_s)
            raise
        self._metrics.upstream(arm, _OK, time.perf_counter() - began_s)
        return answer

    def _allowed(self, latest_s: float) -> bool:
        """Whether time and budget allow one more call; the budget is only asked where there is time."""
        if time.monotonic() >= latest_s:
            self._metrics.retry_denied("deadline")
            return False
        if not self._budget.withdraw():
            self._metrics.retry_denied("budget")
            return False
        return True

    def _pause_s(self) -> float:
        return SHORTEST_PAUSE_S + self._jitter() * (LONGEST_PAUSE_S - SHORTEST_PAUSE_S)


def _reason(error: PredictorUnreachable | PredictorRefused) -> str | None:
    """Why a repetition can help; None where the predictor itself has answered, be it in part."""
    if isinstance(error, PredictorUnreachable):
        return None if isinstance(error, AnswerCutShort) else "connection"
    return "gateway" if isinstance(error, GatewayRefused) and error.status in _GATEWAY_STATUSES else None


def _code(error: Exception) -> str:
    """The label `code` of a call that ended with this error."""
    if isinstance(error, PredictorRefused):
        return str(error.status)
    if isinstance(error, PredictorUnreachable):
        return UNREACHABLE
    return TIMEOUT if isinstance(error, PredictorSilent) else INVALID
