from __future__ import annotations

from transformer import errors


def test_sample_faults_are_client_faults() -> None:
    """An edge that answers BadRequest as the client's mistake does so for samples too, but not for unusable ones."""
    assert issubclass(errors.BadSamples, errors.BadRequest)
    assert not issubclass(errors.UnusableSamples, errors.BadRequest)


def test_refusal_carries_the_predictors_words() -> None:
    """What the predictor said, its status and its Retry-After survive until the edge."""
    refusal = errors.PredictorRefused("queue full", status=503, retry_after_s=2, details={"queue": "8"})
    assert isinstance(refusal, errors.PredictorError)
    assert (str(refusal), refusal.status, refusal.retry_after_s) == ("queue full", 503, 2)
    assert refusal.details == {"queue": "8"}
    assert errors.PredictorRefused("no", status=400).details == {}
