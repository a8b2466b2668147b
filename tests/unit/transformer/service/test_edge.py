from __future__ import annotations

import logging

import pytest

from oip import errors as oip_errors
from oip.errors import NotFound, OipError
from transformer.edge import translated
from transformer.errors import (
    BadContract,
    BadRequest,
    BadSamples,
    BadSettings,
    GatewayRefused,
    InvalidModelOutput,
    PredictorRefused,
    PredictorSilent,
    PredictorUnreachable,
    TransformerError,
    UnusableSamples,
)


def _answer(error: Exception) -> OipError:
    with pytest.raises(OipError) as caught, translated("a-request"):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (BadRequest("b"), oip_errors.InvalidRequest, "b"),
        (BadSamples("s"), oip_errors.InvalidRequest, "s"),
        (UnusableSamples("u"), oip_errors.Unprocessable, "u"),
        (InvalidModelOutput("o"), oip_errors.BadUpstream, "invalid model output: o"),
        (BadContract("c"), oip_errors.Unavailable, "the model cannot be fed: c"),
        (PredictorUnreachable("p"), oip_errors.Unavailable, "p"),
        (PredictorSilent("t"), oip_errors.DeadlineExceeded, "t"),
        (BadSettings("secret"), oip_errors.InternalError, "internal error"),
        (TransformerError("secret"), oip_errors.InternalError, "internal error"),
    ],
)
def test_each_error_has_its_status(error: TransformerError, kind: type[OipError], message: str) -> None:
    """Every kind of error becomes one of the protocol's; what is not foreseen says nothing of the inside."""
    answer = _answer(error)
    assert (type(answer), answer.message) == (kind, message)
    assert answer.__cause__ is error
    assert (answer.retry_after_s == 1) == (kind is oip_errors.Unavailable)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 501, 504])
def test_refusals_keep_status_and_words(status: int) -> None:
    """The predictor's own errors reach the client with their status, words and details."""
    answer = _answer(PredictorRefused("words", status=status, details={"a": "b"}))
    assert (answer.status, answer.message, dict(answer.details)) == (status, "words", {"a": "b"})


@pytest.mark.parametrize("status", [200, 302, 409, 418, 599])
def test_refusals_that_make_no_sense_are_upstream_errors(status: int) -> None:
    """A second conflict about the contract, and a status that the protocol does not have, are 502."""
    answer = _answer(PredictorRefused("words", status=status))
    assert (answer.status, answer.message) == (502, f"the predictor answered with status {status}: words")


@pytest.mark.parametrize(
    ("status", "shown"), [(400, 502), (404, 503), (413, 502), (500, 500), (502, 503), (503, 503), (504, 504)]
)
def test_what_a_proxy_says_is_never_the_clients_fault(status: int, shown: int) -> None:
    """A proxy's 404, 502 or 503 means that the predictor is gone for the moment; the client shall come again."""
    assert _answer(GatewayRefused("no route", status=status)).status == shown


@pytest.mark.parametrize(("sent_s", "passed_on_s"), [(7, 7), (None, 1)])
def test_retry_after_is_passed_on_or_made_up(sent_s: int | None, passed_on_s: int) -> None:
    """503 always says when to come again."""
    assert _answer(PredictorRefused("busy", status=503, retry_after_s=sent_s)).retry_after_s == passed_on_s


def test_only_faults_of_the_service_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the request of a fault; a client's mistake is no line, and the protocol's errors pass."""
    with caplog.at_level(logging.WARNING):
        _answer(BadRequest("b"))
        assert not caplog.records
        _answer(BadSettings("the whole story"))
        assert _answer(NotFound("n")).status == 404
    assert [record.getMessage() for record in caplog.records] == ["request a-request: the whole story"]
