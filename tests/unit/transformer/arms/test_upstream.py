from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from oip.codec import encode_response
from oip.messages import CallContext, InferRequest, InferResponse, Tensor
from transformer import upstream
from transformer.arms import Arm
from transformer.errors import (
    AnswerCutShort,
    BadContract,
    GatewayRefused,
    InvalidModelOutput,
    PredictorRefused,
    PredictorSilent,
    PredictorUnreachable,
)
from transformer.metrics import Metrics
from transformer.predictor_client import PredictorClient
from transformer.restart_wait import RestartWait
from transformer.retry_budget import RetryBudget
from transformer.settling import Settling
from transformer.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Dying, Served, Until


@dataclass
class Predictor:
    """A small predictor: refuses with what it is told to, then answers with its version."""

    version: str
    refusals: list[web.Response] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        await request.read()
        self.requests.append(request)
        if self.refusals:
            return self.refusals.pop(0)
        tensors = (Tensor("position", np.zeros((1, 2), np.float32)),)
        encoded = encode_response(InferResponse("localization", tensors, self.version), InferRequest(()))
        return web.Response(body=encoded.body)


class Positions:
    """Sends one number and reads the version; notes what it was asked to do."""

    def __init__(self, *, valid: bool = True) -> None:
        self.valid = valid
        self.built: list[str] = []

    async def request(self, arm: Arm) -> InferRequest:
        """The request."""
        self.built.append(arm.name)
        return InferRequest((Tensor("log_mel", np.zeros(1, np.float32)),))

    def read(self, arm: Arm, response: InferResponse) -> str:
        """The version and the arm that it is read for."""
        if not self.valid:
            raise InvalidModelOutput("position: is not finite")
        return f"{response.model_version} as {arm.name}"


class Rig:
    """An upstream with everything that can be looked at."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.now_s = 1000.0
        self.client = PredictorClient("localization", connect_timeout_s=0.5, metadata_timeout_s=0.5)
        self.budget = RetryBudget(share=0.0, minimum_per_s=0.1)  # one retry
        self.upstream = self.with_budget(self.budget)

    def with_budget(
        self, budget: RetryBudget, jitter: float = 0.0, max_calls: int = 64, restart_s: float = 0.0
    ) -> Upstream:
        """Another upstream with the same client; the metrics are shared where the budget is the rig's."""
        registry = self.registry if budget is self.budget else CollectorRegistry()
        settling = Settling(10.0, lambda: self.now_s)
        return Upstream(
            self.client,
            budget,
            Metrics(registry),
            max_calls=max_calls,
            settling=settling,
            restart=RestartWait(self.client.ready, longest_s=restart_s),
            jitter=lambda: jitter,
        )

    async def infer(
        self,
        arm: Arm,
        fallback: Arm,
        exchange: Positions,
        context: CallContext,
        *,
        upstream: Upstream | None = None,
    ) -> tuple[str, Arm]:
        """One request as the model makes it: the arm's contract first, then the call; both again at the fallback."""
        upstream = upstream or self.upstream

        async def ask(asked: Arm, repeated: bool) -> tuple[str, Arm]:  # noqa: FBT001 - as `with_fallback` calls it
            with upstream.counted(asked, context.deadline_s):
                request = await exchange.request(asked)
            version = await upstream.infer(
                asked, request, lambda answer: exchange.read(asked, answer), context, repeated=repeated
            )
            return version, asked

        return await upstream.with_fallback(arm, fallback, ask, context)

    def count(self, name: str, **labels: str) -> float:
        """The value of a counter, 0 where it was never counted."""
        return self.registry.get_sample_value(f"transformer_{name}_total", labels) or 0.0

    def calls(self, arm: str, code: str) -> float:
        """How many calls of an arm ended so."""
        return self.count("upstream_requests", arm=arm, revision="", code=code)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """An upstream with a budget of one retry."""
    made = Rig()
    yield made
    await made.client.close()


def context(timeout_s: float = 5.0) -> CallContext:
    """A request that may take this long."""
    return CallContext(time.monotonic() + timeout_s, "r-1", "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "vendor=1")


PLAIN_502 = "EOF\n"


async def test_answer(rig: Rig, served: Served) -> None:
    """The canary answers: one call, and identity, trace and deadline travel with it."""
    predictor = Predictor("2")
    async with served(predictor.handle) as url:
        canary = Arm("canary", url)
        answer = await rig.infer(canary, Arm("stable", "http://unused"), Positions(), context())
    assert answer == ("2 as canary", canary)
    headers = predictor.requests[0].headers
    assert (headers["x-request-id"], headers["tracestate"]) == ("r-1", "vendor=1")
    assert headers["traceparent"] == context().traceparent
    assert 0 < int(headers["x-request-timeout-ms"]) <= 5000
    assert rig.calls("canary", "200") == 1


async def test_dead_canary_falls_to_stable(rig: Rig, served: Served, dying: Dying) -> None:
    """A canary that dies before a byte of an answer costs its client nothing: the stable arm answers, and is named."""
    async with dying(b"") as dead, served(Predictor("1").handle) as alive:
        exchange, stable = Positions(), Arm("stable", alive)
        answer = await rig.infer(Arm("canary", dead), stable, exchange, context())
    assert answer == ("1 as stable", stable)
    assert exchange.built == ["canary", "stable"]
    assert (rig.calls("canary", "unreachable"), rig.calls("stable", "200")) == (1, 1)
    assert rig.count("retries", reason="connection") == 1


async def test_refused_connection(rig: Rig, served: Served, refused_url: str) -> None:
    """A canary that nobody listens for is the same."""
    async with served(Predictor("1").handle) as alive:
        _, arm = await rig.infer(Arm("canary", refused_url), Arm("stable", alive), Positions(), context())
    assert arm.name == "stable"
    assert rig.calls("canary", "unreachable") == 1


@pytest.mark.parametrize("status", [404, 502, 503])
async def test_gateways_answer_for_the_dead(rig: Rig, served: Served, status: int) -> None:
    """queue-proxy's 502 and 503 and the ingress's 404 are plain text: no predictor said that, so it is asked again."""
    canary = Predictor("2", [web.Response(status=status, text=PLAIN_502)])
    async with served(canary.handle) as url, served(Predictor("1").handle) as alive:
        _, arm = await rig.infer(Arm("canary", url), Arm("stable", alive), Positions(), context())
    assert arm.name == "stable"
    assert rig.calls("canary", str(status)) == 1
    assert rig.count("retries", reason="gateway") == 1


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 503, 504])
async def test_what_the_predictor_says_is_kept(rig: Rig, served: Served, status: int) -> None:
    """An error object is the predictor's own word: status, text and Retry-After are kept, and nobody else is asked."""
    said = web.json_response({"error": "queue is full", "queue": "8"}, status=status, headers={"Retry-After": "2"})
    predictor = Predictor("2", [said])
    async with served(predictor.handle) as url:
        with pytest.raises(PredictorRefused, match="queue is full") as refusal:
            await rig.infer(Arm("canary", url), Arm("stable", url), Positions(), context())
    assert (refusal.value.status, refusal.value.retry_after_s, refusal.value.details) == (status, 2, {"queue": "8"})
    assert not isinstance(refusal.value, GatewayRefused)
    assert len(predictor.requests) == 1


async def test_other_pages_are_not_repeated(rig: Rig, served: Served) -> None:
    """A proxy's 500 or 413 says nothing of a crash; its page is not shown to the client."""
    predictor = Predictor("2", [web.Response(status=413, text="<html>secret</html>")])
    async with served(predictor.handle) as url:
        with pytest.raises(GatewayRefused, match="status 413") as refusal:
            await rig.infer(Arm("canary", url), Arm("stable", url), Positions(), context())
    assert "secret" not in str(refusal.value)
    assert len(predictor.requests) == 1


async def test_death_within_the_answer_is_not_repeated(rig: Rig, dying: Dying, served: Served) -> None:
    """Once bytes of an answer have come, the work was done; the client hears of the failure."""
    stable = Predictor("1")
    async with dying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{") as dead, served(stable.handle) as alive:
        with pytest.raises(AnswerCutShort):
            await rig.infer(Arm("canary", dead), Arm("stable", alive), Positions(), context())
    assert stable.requests == []
    assert rig.calls("canary", "unreachable") == 1


async def test_idle_connection_closed_by_the_server(rig: Rig, served: Served) -> None:
    """A pooled connection that the server closes as the next request arrives costs the client nothing."""
    predictor = Predictor("1")
    closed = False

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal closed
        if predictor.requests and not closed:
            closed = True
            assert request.transport is not None
            request.transport.abort()
        return await predictor.handle(request)

    async with served(handle) as url:
        stable = Arm("stable", url)
        for _ in range(2):
            assert await rig.infer(stable, stable, Positions(), context()) == ("1 as stable", stable)
    assert rig.count("retries", reason="connection") == 1


async def test_same_arm_is_given_a_moment(
    rig: Rig, served: Served, dying: Dying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an arm that has just failed is given a pause, of 20 to 100 ms; another arm is asked at once."""
    pauses: list[float] = []

    async def note(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(upstream, "asyncio", SimpleNamespace(sleep=note, Semaphore=asyncio.Semaphore))
    async with dying(b"") as dead, served(Predictor("1").handle) as alive:
        await rig.infer(Arm("canary", dead), Arm("stable", alive), Positions(), context())
        stable = Arm("stable", dead)
        for jitter in (0.0, 1.0):
            same = rig.with_budget(RetryBudget(), jitter)
            with pytest.raises(PredictorUnreachable):
                await rig.infer(stable, stable, Positions(), context(), upstream=same)
    assert pauses == [0.0, 0.02, 0.1]


async def test_the_only_predictor_is_waited_for(rig: Rig, served: Served) -> None:
    """A request that dies with the only predictor is asked again when that is back, without any budget; but once."""
    deaths, predictor = 1, Predictor("1")

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal deaths
        if request.method == "GET":  # whether it is ready
            return web.Response()
        if deaths:
            deaths -= 1
            assert request.transport is not None
            request.transport.abort()
        return await predictor.handle(request)

    nothing = RetryBudget(share=0.0, minimum_per_s=0.0)
    collocated = rig.with_budget(nothing, restart_s=5.0)
    async with served(handle) as url:
        only = Arm("stable", url)
        assert await rig.infer(only, only, Positions(), context(), upstream=collocated) == ("1 as stable", only)
        deaths = 2
        with pytest.raises(PredictorUnreachable):
            await rig.infer(only, only, Positions(), context(), upstream=collocated)


async def test_budget(rig: Rig, dying: Dying, served: Served) -> None:
    """When the budget is used up, failures stay failures, and are counted as denied."""
    async with dying(b"") as dead, served(Predictor("1").handle) as alive:
        canary, stable = Arm("canary", dead), Arm("stable", alive)
        await rig.infer(canary, stable, Positions(), context())
        with pytest.raises(PredictorUnreachable):
            await rig.infer(canary, stable, Positions(), context())
    assert rig.count("retries_denied", reason="budget") == 1


async def test_requests_earn_retries(rig: Rig, dying: Dying, served: Served) -> None:
    """The budget grows with the requests, so a service with traffic can repeat more than the constant part allows."""
    earning = rig.with_budget(RetryBudget(share=0.5, minimum_per_s=0.0))
    async with dying(b"") as dead, served(Predictor("1").handle) as alive:
        canary, stable = Arm("canary", dead), Arm("stable", alive)
        with pytest.raises(PredictorUnreachable):
            await rig.infer(canary, stable, Positions(), context(), upstream=earning)
        assert (await rig.infer(canary, stable, Positions(), context(), upstream=earning))[1] == stable


async def test_repetitions_earn_nothing(rig: Rig, dying: Dying, served: Served) -> None:
    """The share is of the requests: five requests with a repetition each are ten calls, and earn five deposits."""
    budget = RetryBudget(share=1.0, minimum_per_s=0.0)
    earning = rig.with_budget(budget)
    async with dying(b"") as dead, served(Predictor("1").handle) as alive:
        for _ in range(5):
            await rig.infer(Arm("canary", dead), Arm("stable", alive), Positions(), context(), upstream=earning)
    assert not budget.withdraw()


async def test_calls_wait_for_their_turn(rig: Rig, served: Served, until: Until) -> None:
    """No more calls than allowed are at one host at once; another host is not held up by them."""
    together, most, release = 0, 0, asyncio.Event()
    predictor = Predictor("1")

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await release.wait()
        together -= 1
        return await predictor.handle(request)

    limited = rig.with_budget(RetryBudget(), max_calls=2)
    async with served(handle) as busy, served(Predictor("2").handle) as free:
        one, other = Arm("stable", busy), Arm("canary", free)
        calls = [asyncio.create_task(rig.infer(one, one, Positions(), context(), upstream=limited)) for _ in range(5)]
        assert (await rig.infer(other, other, Positions(), context(), upstream=limited))[0] == "2 as canary"
        await until(lambda: together == 2)
        release.set()
        assert {version for version, _ in await asyncio.gather(*calls)} == {"1 as stable"}
    assert most == 2


async def test_settled_durations(rig: Rig, dying: Dying, served: Served) -> None:
    """Successful calls alone, ten seconds after the process began and after the first call of that revision."""

    def settled(arm: Arm) -> float:
        labels = {"arm": arm.name, "revision": arm.revision}
        count = rig.registry.get_sample_value("transformer_upstream_settled_duration_seconds_count", labels)
        return count or 0.0

    async with served(Predictor("1").handle) as alive, dying(b"") as dead:
        stable, canary = Arm("stable", alive, 90, "r-1"), Arm("canary", alive, 10, "r-2")
        gone = Arm("canary", dead, 10, "r-3")
        counts = []
        for now_s, arm in ((1000, stable), (1009.9, stable), (1010, stable), (1015, canary), (1024, canary),
                           (1025, canary), (1025, stable), (1030, gone), (1041, gone)):  # fmt: skip
            rig.now_s = now_s
            with contextlib.suppress(PredictorUnreachable):
                await rig.infer(arm, stable, Positions(), context())
            counts.append((settled(stable), settled(canary), settled(gone)))
    assert counts[:7] == [(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)]
    assert counts[7:] == [(3, 1, 0), (3, 1, 0)]  # one repetition is allowed, and counts for the arm that answers


async def test_deadline(rig: Rig, refused_url: str) -> None:
    """No time, no repetition: a pause that would end after the deadline is not begun, and costs no budget."""
    stable = Arm("stable", refused_url)
    with pytest.raises(PredictorUnreachable):
        await rig.infer(stable, stable, Positions(), context(0.015))
    assert rig.count("retries_denied", reason="deadline") == 1
    assert rig.budget.withdraw()


async def _silent(request: web.Request) -> web.StreamResponse:
    """Later than anybody here waits."""
    await request.read()
    await asyncio.sleep(0.4)
    return web.Response()


async def test_silence(rig: Rig, served: Served) -> None:
    """An arm that does not answer in time has used up the time of everybody; it is counted as a timeout."""
    async with served(_silent) as url:
        with pytest.raises(PredictorSilent):
            await rig.infer(Arm("canary", url), Arm("stable", url), Positions(), context(0.1))
    assert rig.calls("canary", "timeout") == 1


async def _cancelled(rig: Rig, url: str, after_s: float, left_s: float) -> None:
    """One request of `left_s` that is cancelled from outside, as by the request's own deadline or a closed socket."""
    canary = Arm("canary", url)
    task = asyncio.ensure_future(rig.infer(canary, canary, Positions(), context(left_s)))
    await asyncio.sleep(after_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, PredictorSilent):
        await task


async def test_a_silence_that_the_request_itself_ends(rig: Rig, served: Served) -> None:
    """Who is cancelled when the arm's time is up has met a silent arm; whose client has gone says nothing of it."""
    async with served(_silent) as url:
        await _cancelled(rig, url, after_s=0.05, left_s=5.0)
        assert rig.calls("canary", "timeout") == 0

        def no_timeout(_base_url: str, _request: InferRequest, _context: CallContext) -> asyncio.Future[InferResponse]:
            return asyncio.get_running_loop().create_future()  # the call's own timer comes too late

        rig.client.infer = no_timeout  # type: ignore[method-assign,assignment]  # of this test's own client
        await _cancelled(rig, url, after_s=0.1, left_s=0.05)
    assert rig.calls("canary", "timeout") == 1
    labels = {"arm": "canary", "revision": ""}
    assert rig.registry.get_sample_value("transformer_upstream_duration_seconds_count", labels) == 1
    assert (rig.registry.get_sample_value("transformer_upstream_duration_seconds_sum", labels) or 0) >= 0.05


async def test_a_silence_before_the_call(rig: Rig) -> None:
    """An arm that never said what it serves was silent too."""

    class Undescribed(Positions):
        async def request(self, arm: Arm) -> InferRequest:
            await asyncio.sleep(10)
            raise BadContract(arm.name)

    canary = Arm("canary", "http://c")
    task = asyncio.ensure_future(rig.infer(canary, canary, Undescribed(), context(0.05)))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert rig.calls("canary", "timeout") == 1


async def test_time_that_was_up_before_the_call(rig: Rig, served: Served) -> None:
    """A request whose time went while it waited for its turn has not called the arm, and is no evidence against it."""
    predictor = Predictor("2")
    async with served(predictor.handle) as url:
        canary = Arm("canary", url)
        request = await Positions().request(canary)
        with pytest.raises(PredictorSilent, match="no time is left"):
            await rig.upstream.infer(canary, request, lambda answer: answer, context(-0.001))
    assert not predictor.requests
    assert rig.calls("canary", "timeout") == 0


async def test_invalid_output(rig: Rig, served: Served) -> None:
    """An answer without sense counts against its arm as invalid, not as 200, and is not asked for again."""
    predictor = Predictor("2")
    async with served(predictor.handle) as url:
        with pytest.raises(InvalidModelOutput):
            await rig.infer(Arm("canary", url), Arm("stable", url), Positions(valid=False), context())
    assert len(predictor.requests) == 1
    assert (rig.calls("canary", "invalid"), rig.calls("canary", "200")) == (1, 0)
    assert rig.count("invalid_outputs") == 1


async def test_contract_that_cannot_be_read(rig: Rig) -> None:
    """An arm whose model cannot be fed counts against that arm."""

    class Undescribed(Positions):
        async def request(self, arm: Arm) -> InferRequest:
            raise BadContract(f"{arm.name} has none")

    with pytest.raises(BadContract):
        await rig.infer(Arm("canary", "http://c"), Arm("stable", "http://s"), Undescribed(), context())
    assert rig.calls("canary", "invalid") == 1


async def test_connect_timeout_is_no_silence(rig: Rig, swallowing: str) -> None:
    """A host that swallows the handshake is unreachable, which may be repeated elsewhere, long before the deadline."""
    with pytest.raises(PredictorUnreachable):
        await rig.client.infer(swallowing, await Positions().request(Arm("a", "")), context())
