from __future__ import annotations

import asyncio
import time

import pytest

from oip.errors import DeadlineExceeded, NotFound
from oip.messages import CallContext, InferResponse
from oip.outcomes import counted, counted_status


def _status(asked_ms: int | None, left_s: float, status: int = 504, *, body_read: bool = True) -> int:
    """What a request is counted as that may take 10 s, ends with `left_s` to spare, and had asked for less or not."""
    headers = [] if asked_ms is None else [(b"x-request-timeout-ms", b"%d" % asked_ms)]
    context = CallContext(time.monotonic() + left_s, "an-id")
    return counted_status(status, {"headers": headers}, context, 10.0, body_read=body_read)


@pytest.mark.parametrize(
    ("asked_ms", "left_s", "code"),
    [
        (50, -0.001, 499),  # the client's own time was up
        (50, 0.02, 499),  # a backend ended just before it
        (9_999, 0.0, 499),
        (None, 0.0, 504),  # the service's own
        (10_000, 0.0, 504),  # asked for, but no less than everybody gets
        (60_000, 0.0, 504),
        (9_000, 4.0, 504),  # something behind was slower than allowed long before
    ],
)
def test_whose_time_was_up(asked_ms: int | None, left_s: float, code: int) -> None:
    """Only the end of a time that the client itself has lowered is the client's."""
    assert _status(asked_ms, left_s) == code


def test_a_slow_sender() -> None:
    """Who was still sending when the time was up has used it up."""
    assert _status(None, 0.0, body_read=False) == 499


@pytest.mark.parametrize("status", [400, 413, 500, 503])
def test_other_failures(status: int) -> None:
    """Every other status is counted as it is, in time or late, and so is one without a call's context."""
    assert _status(50, -1.0, status, body_read=False) == status
    assert counted_status(504, {"headers": []}, None, 10.0, body_read=True) == 504


class Told:
    """An observer's notes."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.seconds: list[float] = []

    def __call__(self, version: str, code: int, seconds: float) -> None:
        """Take a note."""
        self.told.append((version, code))
        self.seconds.append(seconds)


async def _answer(seconds: float = 0.0, error: Exception | None = None) -> InferResponse:
    await asyncio.sleep(seconds)
    if error is not None:
        raise error
    return InferResponse("m", (), "3")


async def test_counted_calls() -> None:
    """Every end of a call is told once: answers, refusals, faults, and the end of time."""
    told = Told()
    context = CallContext(time.monotonic() + 30.0, "an-id")
    assert (await counted(_answer(0.05), context, told)).model_version == "3"
    with pytest.raises(NotFound):
        await counted(_answer(error=NotFound("no")), context, told)
    with pytest.raises(ValueError, match="fault"):
        await counted(_answer(error=ValueError("fault")), context, told)
    with pytest.raises(DeadlineExceeded):
        await counted(_answer(30.0), CallContext(time.monotonic() + 0.05, "an-id"), told)
    assert told.told == [("3", 200), ("", 404), ("", 500), ("", 504)]
    assert 0.049 < told.seconds[0] < 5.0
    assert all(0.0 <= seconds < 5.0 for seconds in told.seconds)


async def test_a_client_that_cancels() -> None:
    """A call that its client cancels, or whose own deadline passes at the client, is no failure of the service."""
    told = Told()
    task = asyncio.ensure_future(counted(_answer(30.0), CallContext(time.monotonic() + 30.0, "an-id"), told))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert told.told == [("", 499)]
