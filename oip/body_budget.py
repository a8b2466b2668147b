"""A limit for the bodies of all requests together, so that memory is bounded by bytes and not only by requests.

What belongs here: who holds how much. What does not: reading (`http`, `grpc_budget`), and the limit of one body
(`asgi`).

A body is held from its first byte until its request has been answered, because the tensors are views on it. What is
only announced is held by nobody: four clients that announced 64 MiB each and sent nothing took all there was. Sixteen
bodies of 64 MiB at once took a transformer beyond 1 GiB, and the kernel killed it with everything in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from oip.errors import Unavailable

if TYPE_CHECKING:
    from oip.http import ASGIApp, Receive, Scope, Send

MAX_BODIES_BYTES = 256 * 1024 * 1024
"""Of all requests together: four of the greatest. With what is made of them (measured: 1.7 times their size) and the
process itself that is 700 MB."""

RETRY_AFTER_S = 1

_SHARE = "oip.body_share"


class BudgetedApplication:
    """Gives every request a share of the budget, and takes it back when the request has ended.

    Args:
        application: Called for everything; it reads bodies through `http`, which takes from the share.
        max_bytes: For all bodies together.
    """

    def __init__(self, application: ASGIApp, max_bytes: int) -> None:
        self._application = application
        self.max_bytes = max_bytes
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection scope (the ASGI 3 callable)."""
        with self.share() as share:
            scope[_SHARE] = share
            await self._application(scope, receive, send)

    def share(self) -> Share:
        """The share of one request, given back at the end of its `with`; also for what does not come over HTTP."""
        return Share(self)


class Share:
    """What one request holds."""

    __slots__ = ("_budget", "held_bytes")

    def __init__(self, budget: BudgetedApplication) -> None:
        self._budget = budget
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.held_bytes -= self.held_bytes

    def take(self, size: int) -> None:
        """Hold so many bytes more; raises `Unavailable` if that is too much for all together.

        Who is refused holds nothing any more: the refusal may take seconds, and the others' bodies go on to arrive.
        """
        try:
            self.check(size)
        except Unavailable:
            self._budget.held_bytes -= self.held_bytes
            self.held_bytes = 0
            raise
        self._budget.held_bytes += size
        self.held_bytes += size

    def check(self, size: int) -> None:
        """Hold nothing more, but raise `Unavailable` if so many bytes would be too much now."""
        budget = self._budget
        # A request that is alone always fits: its own limit is that of one body.
        if self.held_bytes < budget.held_bytes and budget.held_bytes + size > budget.max_bytes:
            raise Unavailable("the requests in work hold too many bytes", retry_after_s=RETRY_AFTER_S)


def take(scope: Scope, size: int) -> None:
    """Count so many bytes as held by this request until it has ended; without a budget nothing is counted.

    Raises:
        Unavailable: All requests together would hold too many. A request that holds alone is never refused.
    """
    share: Share | None = scope.get(_SHARE)
    if share is not None:
        share.take(size)


def check(scope: Scope, size: int) -> None:
    """Raise `Unavailable` if so many bytes do not fit now; they count when they are taken."""
    share: Share | None = scope.get(_SHARE)
    if share is not None:
        share.check(size)
