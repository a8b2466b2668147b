"""What can go wrong between a model's files and its answer.

What belongs here: one class per cause that is treated differently. What does not: statuses; `model` translates these
errors into the protocol's, once.

    PredictorError
    ├── SettingsError      the command line or the environment: every bad value in one message
    ├── SourceError        where the model lies: not reached, refused, not there, broken off, another version
    ├── ArtifactError      the model's files: missing, ambiguous, corrupt, of another digest, outside their folder
    ├── WarmUpFailed       the model loads but cannot run
    ├── Unloaded           somebody unloaded the model while it was being loaded
    ├── SignatureError     the request does not fit the model's inputs and outputs; the message names the field
    ├── ContractMismatch   the request was built for another contract
    ├── Overloaded         the queue is full, or the pool is closing
    ├── DeadlinePassed     the request waited until nobody wanted its answer any more
    └── InferenceFailed    the runtime gave up on an input that fits the signature
"""

from __future__ import annotations


class PredictorError(Exception):
    """The root; its text is one sentence."""


class SettingsError(PredictorError):
    """Bad values on the command line or in the environment."""


class SourceError(PredictorError):
    """The model could not be fetched from where it lies."""


class ArtifactError(PredictorError):
    """The model's files are missing, ambiguous, corrupt, not those announced, or leave their folder."""


class WarmUpFailed(PredictorError):
    """The model could be loaded but not run."""


class Unloaded(PredictorError):
    """The model was unloaded while it was being loaded: what came last counts."""


class SignatureError(PredictorError):
    """A request that does not fit the model's inputs and outputs."""


class ContractMismatch(PredictorError):
    """The request was built for a contract that is not this model's."""


class Overloaded(PredictorError):
    """There is no room in the queue now."""


class DeadlinePassed(PredictorError):
    """The request's time was up before its run began."""


class InferenceFailed(PredictorError):
    """The runtime failed; the text is for the log, not for the client."""
