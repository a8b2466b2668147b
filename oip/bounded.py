"""Limits of size and time for the bodies of applications that set none themselves.

What belongs here: reading a foreign application's request for it. What does not: our own paths, which know what a body
is before they read it (`asgi`).

The SDK's V1 route reads whatever comes into memory for as long as it takes: 200 MB sent to it stayed as 400 MB.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oip.errors import DeadlineExceeded, PayloadTooLarge, Unavailable
from oip.http import ClientDisconnected, read_plain_body, refuse_body

if TYPE_CHECKING:
    from oip.http import ASGIApp, Message, Receive, Scope, Send


class BoundedApplication:
    """Reads the whole body within its limits, and hands it to the application as one message.

    Args:
        application: Called for every request whose body came within the limits, and for all that is not HTTP.
        limit_bytes: The largest body as it travels; a larger one is refused with 413.
        timeout_s: The longest time for it to come; a later one is refused with 504.
    """

    def __init__(self, application: ASGIApp, limit_bytes: int, timeout_s: float) -> None:
        self._application = application
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection scope (the ASGI 3 callable)."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await read_plain_body(scope, receive, self._limit_bytes)
        except (PayloadTooLarge, Unavailable) as error:
            await refuse_body(receive, send, error)
        except TimeoutError:
            await refuse_body(receive, send, DeadlineExceeded("the body was not complete in time"))
        except ClientDisconnected:
            pass  # nobody is left to answer
        else:
            await self._application(scope, _replayed(body, receive), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A receive callable that says the body first, and then what the real one says: that the client has gone."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
