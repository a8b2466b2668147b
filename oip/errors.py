"""The errors that the protocol can express, each with its HTTP status.

What belongs here: one class per status that this service answers with. What does not: errors of models or of radio;
each component has its own hierarchy and translates it into these once, at its edge.

    OipError
    ├── InvalidRequest        400  the client's mistake; the message names the field
    ├── NotFound              404  no such model, version or path
    ├── MethodNotAllowed      405
    ├── Conflict              409  the two sides disagree about the contract
    ├── PayloadTooLarge       413
    ├── UnsupportedMediaType  415  a Content-Encoding that is not spoken here
    ├── Unprocessable         422  well-formed, but not something the model may see
    ├── InternalError         500  never carries inner text
    ├── NotImplementedHere    501
    ├── BadUpstream           502  the other side's answer makes no sense
    ├── Unavailable           503  carries Retry-After
    └── DeadlineExceeded      504
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class OipError(Exception):
    """An answer other than 200: a message that may be shown to the client, and a status.

    Args:
        message: One sentence for the client.
        retry_after_s: Sent as the header Retry-After.
        details: Further members of the JSON error object, beside `error`.
    """

    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, details: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details: Mapping[str, str] = details or {}


class InvalidRequest(OipError):
    """The request breaks the protocol or the model's signature; the message names the field."""

    status = 400


class NotFound(OipError):
    """No such model, version or path."""

    status = 404


class MethodNotAllowed(OipError):
    """The path exists, with another method."""

    status = 405


class Conflict(OipError):
    """The two sides disagree, for example about the model's contract."""

    status = 409


class PayloadTooLarge(OipError):
    """The body is larger than this server reads."""

    status = 413


class UnsupportedMediaType(OipError):
    """A Content-Encoding that is not spoken here."""

    status = 415


class Unprocessable(OipError):
    """Well-formed, but not something that the model may see."""

    status = 422


class InternalError(OipError):
    """A fault of the server; the message says nothing of its inside."""

    status = 500


class NotImplementedHere(OipError):
    """A part of the protocol that this server does not offer."""

    status = 501


class BadUpstream(OipError):
    """The server behind this one answered with something that makes no sense."""

    status = 502


class Unavailable(OipError):
    """Not now; Retry-After says when to come again."""

    status = 503


class DeadlineExceeded(OipError):
    """The request's time budget is used up."""

    status = 504


BY_STATUS: Mapping[int, type[OipError]] = {kind.status: kind for kind in OipError.__subclasses__()}
"""The error class of each status; used to carry an upstream status on to the client."""
