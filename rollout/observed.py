"""What the cluster shows of one service, as a value.

What belongs here: which model its specification names, and what of it has really arrived. What does not: reading it
from the API server (`inference_service`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rollout.release import ModelVersion

ALL_PERCENT = 100


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at an InferenceService, its Knative service and the pods of its newest revision.

    Attributes:
        storage_uri: That the specification names.
        model_version: That the specification names; may be empty.
        model_digest: That the specification names; may be empty.
        percent: `canaryTrafficPercent`; None where it is not set, which sends everything to the newest revision.
        arrived: Whether Knative's template is the one that the specification asks for. KServe's observedGeneration
            stays 1, so it cannot tell.
        ready: Whether all conditions of the service are met.
        newest: The revision that was created last.
        newest_ready: The one that was ready last.
        rolled_out: The one that had all requests last: KServe's stable side.
        traffic: Revision and its share in percent, each revision once, those without a share as well.
        failure: Why the newest revision's pods cannot run; empty while nothing says so.
        complaint: What the service's conditions say is not met, which may pass; empty if nothing.
    """

    storage_uri: str
    model_version: str
    model_digest: str
    percent: int | None
    arrived: bool = False
    ready: bool = False
    newest: str = ""
    newest_ready: str = ""
    rolled_out: str = ""
    traffic: tuple[tuple[str, int], ...] = ()
    failure: str = ""
    complaint: str = ""

    def names(self, model: ModelVersion) -> bool:
        """Whether the specification names this version."""
        return (self.storage_uri, self.model_digest) == (model.storage_uri, model.model_digest)

    def share(self, revision: str) -> int:
        """What of the requests a revision gets, in percent."""
        return dict(self.traffic).get(revision, 0)

    @property
    def started(self) -> bool:
        """Whether what the specification asks for is there and ready, whatever its share."""
        return self.arrived and bool(self.newest) and self.newest == self.newest_ready

    @property
    def live(self) -> bool:
        """Whether the newest revision is ready and routed to as the percentage says.

        The percentage in the status alone appears before the canary is ready: the list of targets then names the old
        revision twice.
        """
        wanted = ALL_PERCENT if self.percent is None else self.percent
        return self.started and (self.newest, wanted) in self.traffic

    @property
    def settled(self) -> bool:
        """Whether the newest revision is the only one that gets requests."""
        return self.live and self.share(self.newest) == ALL_PERCENT
