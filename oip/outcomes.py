"""What a request is counted as, which is not always the status that its client reads.

What belongs here: the code that observers are told. What does not: answers, and the counters behind the observers.

A failure that only the client could have avoided is no failure of the service: whoever left, whoever was still sending
when the time was up, and whoever allowed less time than the service would have taken, is counted as 499.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from oip.errors import DeadlineExceeded, InternalError, OipError
from oip.http import headers_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oip.http import Scope
    from oip.messages import CallContext, InferResponse

CLIENT_CLOSED = 499
"""Of no standard; nginx's number for a client that left first."""

EARLY_S = 0.025
"""A backend may give up so long before a request's deadline, so that its own answer still comes in time."""


def counted_status(
    status: int, scope: Scope, context: CallContext | None, default_timeout_s: float, *, body_read: bool
) -> int:
    """What an answer with this status, just sent, is counted as.

    Args:
        status: Of the answer.
        scope: The request's.
        context: The call's, if the request came so far.
        default_timeout_s: The time budget of requests that do not lower it.
        body_read: Whether the request was complete.
    """
    if status != DeadlineExceeded.status or context is None:
        return status
    asked_ms = headers_of(scope).get(b"x-request-timeout-ms")
    lowered = asked_ms is not None and int(asked_ms) < default_timeout_s * 1000
    own_end = lowered and time.monotonic() >= context.deadline_s - EARLY_S
    return CLIENT_CLOSED if own_end or not body_read else status


async def counted(
    call: Awaitable[InferResponse], context: CallContext, observe: Callable[[str, int, float], None]
) -> InferResponse:
    """The answer within its deadline, for the SDK's routes: what the V2 application does for its own requests.

    Args:
        call: Answers.
        context: Says how long it may take.
        observe: Told the version that answered (empty where none did), the code and the seconds.

    Raises:
        DeadlineExceeded: The time is up.
        OipError: What the call raised.
    """
    started_s = time.perf_counter()
    version, code = "", InternalError.status
    try:
        async with asyncio.timeout(context.deadline_s - time.monotonic()):
            response = await call
        version, code = response.model_version or "", 200
    except TimeoutError as error:
        code = DeadlineExceeded.status
        raise DeadlineExceeded("the request's time budget is used up") from error
    except OipError as error:
        code = error.status
        raise
    except asyncio.CancelledError:
        code = CLIENT_CLOSED
        raise
    finally:
        observe(version, code, time.perf_counter() - started_s)
    return response
