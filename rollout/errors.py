"""Everything that can go wrong around a release.

What belongs here: the errors of the adapters and of the steps. What does not: verdicts, which are no errors, and what
cannot be measured (`evidence.EvidenceUnavailable`), which leaves a release as it is.
"""

from __future__ import annotations


class RolloutError(Exception):
    """Something that ends the command; the message is one sentence for a person."""


class UsageError(RolloutError):
    """The command line leaves out what this command needs."""


class ClusterError(RolloutError):
    """The API server does not answer, or not as it should."""


class DeniedError(ClusterError):
    """The API server understood and said no: permissions, an admission policy, or the schema."""


class ConflictError(ClusterError):
    """Somebody else has changed or made the same object in the meantime."""


class RegistryError(RolloutError):
    """The model registry does not answer, or does not know what was asked for."""


class ArtifactError(RolloutError):
    """A model's files are not there, cannot be read, or are not what was registered."""


class RefusedError(RolloutError):
    """This release must not begin, or not now."""


class RejectedError(RefusedError):
    """The version itself is bad, by evidence: it is remembered, so that nobody tries again without saying so."""


class NothingNewError(RefusedError):
    """The version was rejected before, or its model serves already: there is nothing to find out."""


class HeldError(RefusedError):
    """Another run has the service's lease."""
