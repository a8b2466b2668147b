"""Calls of the arms: each counted, and a request repeated where that can help.

What belongs here: which failures are repeated, where and when, and the count of every call. What does not: the
connection (`predictor_client`), the draw (`arms`), and what requests and answers mean.

    ask ──▶ answer
     │ died before the first byte of an answer ──▶ pause if it is the same arm ──▶ ask the stable arm

Inference is pure, so a repetition is always safe; the budget keeps it from being harmful. A connection that the server
closed while it was idle looks like a crash (RFC 9112, section 9.3.1), and is charged like one: it is rare, because the
client gives a connection up after 30 s and the predictor after 65 s, and the budget's constant part covers it. The
reasons of a repetition are "connection" and "gateway": queue-proxy and the ingress answer for a predictor that
crashed (502, 503), the ingress also for a host that is gone (404), none of them with the protocol's error object.
Where the only predictor shares this process's pod, its restart is waited for instead (`restart_wait`), "restart": once
for a request, in case it is the request that it dies of.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from oip import tracing
from oip.errors import OipError
from transformer.edge import GATEWAY_STATUSES
from transformer.errors import (
    AnswerCutShort,
    BadContract,
    GatewayRefused,
    InvalidModelOutput,
    PredictorError,
    PredictorRefused,
    PredictorSilent,
    PredictorUnreachable,
)
from transformer.metrics import INVALID, TIMEOUT, UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from oip.messages import CallContext, InferRequest, InferResponse
    from transformer.arms import Arm
    from transformer.metrics import Metrics
    from transformer.predictor_client import PredictorClient
    from transformer.restart_wait import RestartWait
    from transformer.retry_budget import RetryBudget
    from transformer.settling import Settling

Answer = TypeVar("Answer")

_OK = "200"

CONNECTION, GATEWAY, RESTART = "connection", "gateway", "restart"

REPETITIONS = {CONNECTION: 1, GATEWAY: 5}
"""How often a request is repeated for each reason. A gateway goes on sending requests to a pod whose process is being
restarted, for about a second, so the first repetition may well meet the same pod."""

SHORTEST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.1
"""Before asking the same arm again, the first time; each further pause is twice as long, so that all of them together
outlast a container's restart. The pause is random, so that requests that failed together do not come together."""


class Upstream:
    """Calls the predictor's arms.

    Args:
        client: Calls one arm.
        budget: Allows repetitions.
        metrics: Counts every call.
        max_calls: Calls of one host at once; more wait for their turn.
        settling: Which calls are ordinary ones.
        restart: Waits for the only predictor's return, which costs no budget: nothing is asked until it is back.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        client: PredictorClient,
        budget: RetryBudget,
        metrics: Metrics,
        *,
        max_calls: int,
        settling: Settling,
        restart: RestartWait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._budget = budget
        self._metrics = metrics
        self._settling = settling
        self._restart = restart
        self._jitter = jitter
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max_calls))

    async def infer(
        self,
        arm: Arm,
        request: InferRequest,
        read: Callable[[InferResponse], Answer],
        context: CallContext,
        *,
        repeated: bool = False,
    ) -> Answer:
        """One call of an arm, counted by what came of it. Its duration begins when it is its turn.

        Args:
            arm: Who is asked.
            request: Built by the contract of this arm's model.
            read: Gives the answer its meaning; raises `InvalidModelOutput`.
            context: Deadline and identity of the request.
            repeated: Whether an arm was called for the same before; such a call earns no repetitions.

        Raises:
            PredictorError: The arm gave no answer.
            InvalidModelOutput: The answer makes no sense.
        """
        if not repeated:
            self._budget.deposit()
        async with self._places[arm.base_url]:
            return await self._call(arm, request, read, context)

    async def _call(
        self, arm: Arm, request: InferRequest, read: Callable[[InferResponse], Answer], context: CallContext
    ) -> Answer:
        if context.deadline_s <= time.monotonic():  # it waited for its turn: that says nothing of this call
            raise PredictorSilent("no time is left to call the predictor")
        settled = self._settling.over(arm.revision or arm.base_url)
        began_s = time.perf_counter()
        with tracing.span("POST", tracing.Kind.CLIENT) as span, self.counted(arm, context.deadline_s, began_s):
            span.set("http.request.method", "POST")
            span.set("server.address", arm.base_url)
            answer = read(await self._client.infer(arm.base_url, request, tracing.outgoing(context)))
            span.set("http.response.status_code", 200)
        duration_s = time.perf_counter() - began_s
        self._metrics.upstream(arm, _OK, duration_s)
        if settled:
            self._metrics.upstream_settled(arm, duration_s)
        return answer

    @contextmanager
    def counted(self, arm: Arm, deadline_s: float, began_s: float | None = None) -> Iterator[None]:
        """Count what goes wrong inside as a call of this arm that ended so; its success is the caller's to count.

        Args:
            arm: Who is asked.
            deadline_s: When the arm's time is up (`time.monotonic()`). Who is cancelled after that has waited for the
                arm in vain; before, the client has gone.
            began_s: When the call began (`time.perf_counter()`); now, if not given.
        """
        began_s = time.perf_counter() if began_s is None else began_s
        try:
            yield
        except (PredictorError, BadContract, InvalidModelOutput, OipError) as error:
            self._metrics.upstream(arm, _code(error), time.perf_counter() - began_s)
            raise
        except asyncio.CancelledError:
            if time.monotonic() >= deadline_s:
                self._metrics.upstream(arm, TIMEOUT, time.perf_counter() - began_s)
            raise

    async def with_fallback(
        self, arm: Arm, fallback: Arm, ask: Callable[[Arm, bool], Awaitable[Answer]], context: CallContext
    ) -> Answer:
        """What an arm answers; if it dies, what the fallback answers, within the same deadline.

        Args:
            arm: The arm that was drawn or that the request is pinned to.
            fallback: The stable arm; the same arm again where the request is pinned to a version.
            ask: Everything that has to be done for an answer, from the arm's contract on: versions differ in theirs.
                It is told whether it is a repetition.
            context: Deadline and identity of the request.

        Raises:
            PredictorError: No arm gave an answer; that of the last one asked.
            TransformerError: Whatever else `ask` raises; it is not repeated, because it would only be raised again.
        """
        restarted = False
        for repeated in itertools.count():
            try:
                with tracing.span("arm") as span:
                    span.set("heimdall.arm", arm.name)
                    span.set("heimdall.revision", arm.revision)
                    span.set("heimdall.attempt", repeated + 1)
                    return await ask(arm, repeated > 0)
            except (PredictorUnreachable, PredictorRefused) as error:
                reason = _reason(error)
                if (
                    reason == CONNECTION
                    and not restarted
                    and await self._restart.over(arm.base_url, context.deadline_s)
                ):
                    restarted, pause_s, reason = True, 0.0, RESTART
                else:
                    pause_s = self._pause_s(repeated) if fallback == arm else 0.0
                    if repeated >= REPETITIONS.get(reason, 0) or not self._allowed(context.deadline_s - pause_s):
                        raise
            await asyncio.sleep(pause_s)
            self._metrics.retried(reason)
            arm = fallback
        raise AssertionError("not reached: the last repetition returns or raises")

    def _allowed(self, latest_s: float) -> bool:
        """Whether time and budget allow one more call; the budget is only asked where there is time."""
        if time.monotonic() >= latest_s:
            self._metrics.retry_denied("deadline")
            return False
        if not self._budget.withdraw():
            self._metrics.retry_denied("budget")
            return False
        return True

    def _pause_s(self, repeated: int) -> float:
        return (SHORTEST_PAUSE_S + self._jitter() * (LONGEST_PAUSE_S - SHORTEST_PAUSE_S)) * 2.0**repeated


def _reason(error: PredictorUnreachable | PredictorRefused) -> str:
    """Why a repetition can help; "none" where the predictor itself has answered, be it in part."""
    if isinstance(error, PredictorUnreachable):
        return "none" if isinstance(error, AnswerCutShort) else CONNECTION
    return GATEWAY if isinstance(error, GatewayRefused) and error.status in GATEWAY_STATUSES else "none"


def _code(error: Exception) -> str:
    """The label `code` of a call that ended with this error."""
    if isinstance(error, PredictorRefused):
        return str(error.status)
    if isinstance(error, PredictorUnreachable):
        return UNREACHABLE
    return TIMEOUT if isinstance(error, PredictorSilent) else INVALID
