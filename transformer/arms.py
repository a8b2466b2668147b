"""The predictor's arms: which revision a request goes to.

What belongs here: the arms and the choice among them, as pure values. What does not: how the arms of a running
InferenceService become known, and the calls to them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arm:
    """One live predictor revision, or the only predictor where there is no canary.

    Attributes:
        name: "stable" or "canary"; reported to the client.
        base_url: Scheme, host and port of the predictor, without a path.
    """

    name: str
    base_url: str
