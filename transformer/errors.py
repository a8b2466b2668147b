"""What can be wrong with a request, a contract, the predictor or its answer, in this component's own words.

What belongs here: one class per kind of fault, each with a message that may be shown to the client. What does not: the
statuses of HTTP that this component answers with; those are attached where it meets the protocol.

    TransformerError
    ├── BadSettings            the operator's mistake; the message names every bad setting
    ├── BadRequest             the client's mistake; the message names the parameter
    │   └── BadSamples         the client's mistake; the message names item, receiver and index
    ├── UnusableSamples        well-formed samples that the model must not see
    ├── BadContract            the model's description of itself cannot be read; the message names the member
    ├── InvalidModelOutput     the model's answer makes no sense; the message names the output
    └── PredictorError         the predictor gave no answer
        ├── PredictorUnreachable   no connection, or it died
        │   └── AnswerCutShort     it died within the answer
        ├── PredictorSilent        the time was up
        └── PredictorRefused       it answered with an error of its own
            └── GatewayRefused     a proxy on the way answered for it
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_DETAILS: Mapping[str, str] = MappingProxyType({})


class TransformerError(Exception):
    """A fault with a message of one sentence that may be shown to the client."""


class BadSettings(TransformerError):
    """The process cannot start as it was told to; the message names every bad setting."""


class BadRequest(TransformerError):
    """A parameter of the request is outside of what it may be; the message names it."""


class BadSamples(BadRequest):
    """The tensor of samples breaks the contract: datatype, shape, length or a sample that is not finite."""


class UnusableSamples(TransformerError):
    """Well-formed samples on which the model's answer would mean nothing, such as those of a dead receiver."""


class BadContract(TransformerError):
    """The model's contract cannot be read; the message names the member by its path."""


class InvalidModelOutput(TransformerError):
    """The model's answer cannot be a position with an uncertainty; the message names the output and says why."""


class PredictorError(TransformerError):
    """The predictor gave no answer that can be used."""


class PredictorUnreachable(PredictorError):
    """No connection to the predictor, or it died before the answer."""


class PredictorSilent(PredictorError):
    """The predictor did not answer in time."""


class PredictorRefused(PredictorError):
    """The predictor answered with an error.

    Args:
        message: The predictor's own words.
        status: The HTTP status that it answered with.
        retry_after_s: Its header Retry-After, if it sent one.
        details: Further members of its JSON error object.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after_s: int | None = None,
        details: Mapping[str, str] = _NO_DETAILS,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.details = details


class AnswerCutShort(PredictorUnreachable):
    """The connection died within the answer: the predictor was there and did the work."""


class GatewayRefused(PredictorRefused):
    """An error without the protocol's error object: it came from a proxy on the way, not from the predictor."""
