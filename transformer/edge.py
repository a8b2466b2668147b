"""Where this component's errors become the protocol's, for V2, REST and gRPC alike.

What belongs here: the status of each kind of error. What does not: causes; they are where the errors are raised.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oip.errors import (
    BY_STATUS,
    BadUpstream,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    OipError,
    Unavailable,
    Unprocessable,
)
from transformer.errors import (
    BadContract,
    BadRequest,
    GatewayRefused,
    InvalidModelOutput,
    PredictorRefused,
    PredictorSilent,
    PredictorUnreachable,
    TransformerError,
    UnusableSamples,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

RETRY_AFTER_S = 1
"""A predictor that cannot be reached is usually being replaced, which takes seconds; the header knows whole ones."""

CONTRACT_CONFLICT = 409
"""What a predictor answers to features that were built by another contract than its model's."""

GATEWAY_STATUSES = frozenset({404, 502, 503})
"""What a proxy answers for a predictor that is not there."""

logger = logging.getLogger(__name__)


@contextmanager
def translated(request_id: str) -> Iterator[None]:
    """Raise what is inside as `OipError`; the request's id goes to the log with what the client is not told."""
    try:
        yield
    except TransformerError as error:
        answer = _translation(error)
        if answer.status >= InternalError.status:
            logger.warning("request %s: %s", request_id, error)
        raise answer from error


def _translation(error: TransformerError) -> OipError:
    if isinstance(error, PredictorRefused):
        return _refusal(error)
    for kind, translate in _TRANSLATIONS.items():
        if isinstance(error, kind):
            return translate(str(error))
    return InternalError("internal error")


_TRANSLATIONS: Mapping[type[TransformerError], Callable[[str], OipError]] = {
    BadRequest: InvalidRequest,
    UnusableSamples: Unprocessable,
    InvalidModelOutput: lambda message: BadUpstream(f"invalid model output: {message}"),
    BadContract: lambda message: Unavailable(f"the model cannot be fed: {message}", retry_after_s=RETRY_AFTER_S),
    PredictorUnreachable: lambda message: Unavailable(message, retry_after_s=RETRY_AFTER_S),
    PredictorSilent: DeadlineExceeded,
}


def _refusal(error: PredictorRefused) -> OipError:
    """The predictor's own status and words, but for what no client can mend.

    That is a second conflict about the contract, and what a proxy has against the request that was made here. A proxy
    that answers for a predictor which is not there (404 for its host, 502 and 503 for its process) means that the
    client shall come again.
    """
    if isinstance(error, GatewayRefused) and error.status in GATEWAY_STATUSES:
        return Unavailable(str(error), retry_after_s=error.retry_after_s or RETRY_AFTER_S)
    proxys = isinstance(error, GatewayRefused) and error.status < InternalError.status
    if error.status == CONTRACT_CONFLICT or error.status not in BY_STATUS or proxys:
        return BadUpstream(f"the predictor answered with status {error.status}: {error}")
    retry_after_s = error.retry_after_s
    if error.status == Unavailable.status and retry_after_s is None:  # a proxy's own answer: it knows no better
        retry_after_s = RETRY_AFTER_S
    return BY_STATUS[error.status](str(error), retry_after_s=retry_after_s, details=error.details)
