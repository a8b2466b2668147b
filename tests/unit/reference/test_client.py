from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web

from oip.codec import decode_request, encode_response
from oip.messages import InferRequest, InferResponse, Tensor
from reference.client import JSON_SIZE_HEADER, Service
from reference.errors import ServiceFailed
from reference.evaluate import in_blocks, judge_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from reference.simulate import Captures

PATH = "/v2/models/localization/infer"


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A transformer's infer path on a free port of loopback, answered by `handler`."""
    application = web.Application(client_max_size=2**26)
    application.router.add_post(PATH, handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(request: InferRequest) -> InferResponse:
    """Positions that tell which sample they come from, and ellipses as large as the level asked for."""
    iq = request.input("iq").array
    level = float(request.parameters["confidence_level"])
    outputs = {
        "position": np.stack([iq[:, 0, 0, 0], iq[:, 0, 0, 1]], axis=-1).astype(np.float64),
        "covariance": np.tile(np.eye(2), (len(iq), 1, 1)),
        "confidence": np.full(len(iq), 0.5, dtype=np.float32),
        "ellipse": np.tile([level, level / 2.0, 0.0], (len(iq), 1)),
    }
    return InferResponse("localization", tuple(Tensor(entry.name, outputs[entry.name]) for entry in request.outputs))


async def honest(http: web.Request) -> web.Response:
    """Decode, answer, encode."""
    request = decode_request(await http.read(), int(http.headers[JSON_SIZE_HEADER]))
    encoded = encode_response(answer(request), request)
    return web.Response(body=encoded.body, headers={JSON_SIZE_HEADER: str(encoded.json_size)})


async def test_answers_come_back_in_order_with_their_levels(drawn: Captures) -> None:
    """Batches keep the captures' order, and every level's ellipse is the one that was asked for at that level."""
    few = drawn.first(19)
    async with serving(honest) as url, Service(url) as service:
        estimates = await service.estimate(few, (0.5, 0.9))
    assert estimates.position_deg == pytest.approx(few.iq[:, 0, 0].astype(np.float64))
    assert estimates.ellipses[0.5][:, 0] == pytest.approx(np.full(19, 0.5))
    assert estimates.ellipses[0.9][:, 0] == pytest.approx(np.full(19, 0.9))
    assert estimates.covariance_m2.shape == (19, 2, 2)


async def test_one_batch_is_one_session(drawn: Captures) -> None:
    """All levels of a batch carry the same session, so that a canary answers them with one version."""
    sessions: dict[bytes, set[str]] = {}

    async def listening(http: web.Request) -> web.Response:
        request = decode_request(await http.read(), int(http.headers[JSON_SIZE_HEADER]))
        key = request.input("iq").array[0, 0, 0].tobytes()
        sessions.setdefault(key, set()).add(str(request.parameters["session_id"]))
        return await honest(http)

    async with serving(listening) as url, Service(url) as service:
        await service.estimate(drawn.first(16), (0.5, 0.9, 0.95))
    assert [len(names) for names in sessions.values()] == [1, 1]
    assert len(set().union(*sessions.values())) == 2


async def test_host_header_is_sent(drawn: Captures) -> None:
    """An ingress that routes by Host can be asked by address."""
    hosts: list[str] = []

    async def listening(http: web.Request) -> web.Response:
        hosts.append(http.headers["Host"])
        return await honest(http)

    async with serving(listening) as url, Service(url, headers={"Host": "localization.example"}) as service:
        await service.estimate(drawn.first(1), (0.5,))
    assert hosts == ["localization.example"]


async def refusing(_http: web.Request) -> web.Response:
    """An error object."""
    return web.json_response({"error": "receiver 'Torino' is dead"}, status=422)


async def mumbling(_http: web.Request) -> web.Response:
    """Something that is not V2."""
    return web.Response(text="hello")


async def mismeasuring(_http: web.Request) -> web.Response:
    """A binary length that is no number."""
    return web.Response(text="{}", headers={JSON_SIZE_HEADER: "many"})


async def forgetting(http: web.Request) -> web.Response:
    """V2 without outputs other than one nobody asked for."""
    request = decode_request(await http.read(), int(http.headers[JSON_SIZE_HEADER]))
    encoded = encode_response(InferResponse("localization", (Tensor("other", np.zeros(1)),)), request)
    return web.Response(body=encoded.body, headers={JSON_SIZE_HEADER: str(encoded.json_size)})


async def misshaping(http: web.Request) -> web.Response:
    """The right outputs for one case too many."""
    request = decode_request(await http.read(), int(http.headers[JSON_SIZE_HEADER]))
    outputs = tuple(Tensor(entry.name, np.zeros((99, 2))) for entry in request.outputs)
    encoded = encode_response(InferResponse("localization", outputs), request)
    return web.Response(body=encoded.body, headers={JSON_SIZE_HEADER: str(encoded.json_size)})


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (refusing, "answered 422: .*receiver 'Torino' is dead"),
        (mumbling, "does not speak V2"),
        (mismeasuring, "does not speak V2"),
        (forgetting, "has no output 'position'"),
        (misshaping, r"'position' has shape \(99, 2\) instead of \(2, 2\)"),
    ],
)
async def test_failures_say_what_happened(
    drawn: Captures, handler: Callable[[web.Request], Awaitable[web.Response]], message: str
) -> None:
    """Every way of not answering becomes one error with the reason in it."""
    async with serving(handler) as url, Service(url) as service:
        with pytest.raises(ServiceFailed, match=message):
            await service.estimate(drawn.first(2))


async def test_silent_server_is_given_up(drawn: Captures) -> None:
    """A request that is not answered in time is an error, not a wait for ever."""

    async def sleeping(_http: web.Request) -> web.Response:
        await asyncio.sleep(1.0)
        return web.Response()

    async with serving(sleeping) as url, Service(url, timeout_s=0.1) as service:
        with pytest.raises(ServiceFailed, match="cannot be asked"):
            await service.estimate(drawn.first(1), (0.5,))


async def test_evaluation_of_a_service_keeps_cases_together(drawn: Captures) -> None:
    """Answers and truths of all blocks meet in order: a service that knows the truth has no error."""
    few = drawn.first(40)
    truths = {few.iq[case, 0, 0].tobytes(): few.position_deg[case] for case in range(40)}

    async def knowing(http: web.Request) -> web.Response:
        request = decode_request(await http.read(), int(http.headers[JSON_SIZE_HEADER]))
        response = answer(request)
        position = np.stack([truths[case[0, 0].tobytes()] for case in request.input("iq").array])
        outputs = tuple(
            Tensor("position", position) if tensor.name == "position" else tensor for tensor in response.outputs
        )
        encoded = encode_response(InferResponse("localization", outputs), request)
        return web.Response(body=encoded.body, headers={JSON_SIZE_HEADER: str(encoded.json_size)})

    async with serving(knowing) as url, Service(url) as service:
        judged = await judge_service(service, in_blocks(few))
    assert len(judged.error_m) == 40
    assert np.abs(judged.error_m).max() < 1e-3
    assert 5e3 < np.sqrt(np.mean(np.sum(judged.bayes_error_m**2, axis=1))) < 80e3
