"""The InferenceService's traffic status, read as arms.

What belongs here: what the status means, as a pure function of the object. What does not: where the object comes from
(`traffic_watch`), and the choice among the arms (`arms`).

The traps of the status, each of which a plain reading of the percentages falls into:

* The canary's percentage is shown before the canary is ready; `traffic[]` then names the old revision twice. Hence
  shares count by revision, and a canary counts once it is the latest ready revision and really in `traffic[]`.
* During such a time the ordinary host begins to split as soon as the canary is ready, before that can be known here.
  Hence the stable arm has its own tag host whenever there is one.
* At 0 percent the canary is still routed: never drawn, but there for requests that are pinned to its version.
* `traffic[]` is written before the ingress knows the hosts. Hence a tag host counts once the route is ready; while the
  route is being rebuilt, a revision keeps the host that it is known by. A share that falls, falls at once.
* Without the annotation `serving.kserve.io/enable-tag-routing` the canary has no host of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from transformer.arms import CANARY, STABLE, Arm, Arms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WHOLE = 100
_NO_TAGS = (
    "the canary has no host of its own, so Knative splits the traffic: set the annotation "
    "serving.kserve.io/enable-tag-routing to 'true' on the InferenceService"
)


@dataclass(frozen=True, slots=True)
class Routing:
    """What the status says: the arms, and why they are fewer than the status names, if they are."""

    arms: Arms
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    """One entry of `traffic[]`."""

    revision: str
    percent: int
    tag: str
    latest: bool


def sole_arm(base_url: str) -> Arms:
    """The arms where nothing is known of revisions: one, behind the ordinary host with Knative's own split."""
    return Arms(Arm(STABLE, base_url))


def parse_traffic(inference_service: Mapping[str, Any], base_url: str, known: Arms | None = None) -> Routing:
    """Read the arms of the predictor from the InferenceService.

    Args:
        inference_service: The object as the API server sends it; its schema (the CRD's) is relied upon.
        base_url: The predictor's ordinary URL as KServe hands it over, `http://NAME-predictor.NAMESPACE`. A tag's host
            is the same with the tag in front: Knative makes a Service of that name beside the ordinary one.
        known: The arms until now.
    """
    status = inference_service.get("status", {})
    predictor = status.get("components", {}).get("predictor", {})
    targets = [_target(entry) for entry in predictor.get("traffic", ())]
    hosts = _Hosts(base_url, _route_ready(status), frozenset(_known_hosts(known)))
    if not targets:
        return Routing(sole_arm(base_url))
    if len({target.revision for target in targets}) == 1:
        return Routing(Arms(_whole(targets, hosts)))
    return _split(targets, predictor.get("latestReadyRevision", ""), hosts)


@dataclass(frozen=True, slots=True)
class _Hosts:
    """The hosts that can be relied upon: of a route that is ready all, else those in use already."""

    ordinary: str
    ready: bool
    known: frozenset[tuple[str, str]]

    def of(self, target: _Target) -> str | None:
        """The URL that leads to this target's revision alone, if there is one that works now."""
        if not target.tag:
            return None
        url = tagged(self.ordinary, target.tag)
        return url if self.ready or (url, target.revision) in self.known else None


def _whole(targets: list[_Target], hosts: _Hosts) -> Arm:
    """The only revision's arm. One entry needs no tag; of two, the stable one's host stays when the canary is ready."""
    alone = len(targets) == 1
    urls = [] if alone and hosts.ready else [hosts.of(target) for target in targets if alone or not target.latest]
    return Arm(STABLE, next(filter(None, urls), hosts.ordinary), _WHOLE, targets[0].revision)


def _split(targets: list[_Target], latest_ready: str, hosts: _Hosts) -> Routing:
    """The routing of two revisions; anything that KServe does not write is left to Knative."""
    canaries = [target for target in targets if target.latest]
    stables = [target for target in targets if not target.latest]
    if len(canaries) != 1 or len(stables) != 1 or canaries[0].percent + stables[0].percent != _WHOLE:
        return Routing(sole_arm(hosts.ordinary), "the traffic is not split between one stable and one latest revision")
    (canary,), (stable,) = canaries, stables
    if not canary.tag or not stable.tag:
        return Routing(sole_arm(hosts.ordinary), _NO_TAGS)
    stable_url, canary_url = hosts.of(stable), hosts.of(canary)
    # Where a newer revision is ready already, the canary's host may lead there at any moment.
    if stable_url is None or canary_url is None or canary.revision != latest_ready:
        return Routing(Arms(Arm(STABLE, stable_url or hosts.ordinary, _WHOLE, stable.revision)))
    return Routing(
        Arms(
            Arm(STABLE, stable_url, stable.percent, stable.revision),
            Arm(CANARY, canary_url, canary.percent, canary.revision),
        )
    )


def tagged(base_url: str, tag: str) -> str:
    """The URL of a tag's host: `http://loc-predictor.ns` → `http://latest-loc-predictor.ns`."""
    parts = urlsplit(base_url)
    return parts._replace(netloc=f"{tag}-{parts.netloc}").geturl()


def _known_hosts(known: Arms | None) -> Iterator[tuple[str, str]]:
    if known is not None:
        for arm in known.candidates:
            yield arm.base_url, arm.revision


def _route_ready(status: Mapping[str, Any]) -> bool:
    return any(
        condition.get("type") == "PredictorRouteReady" and condition.get("status") == "True"
        for condition in status.get("conditions", ())
    )


def _target(entry: Mapping[str, Any]) -> _Target:
    return _Target(
        revision=entry.get("revisionName", ""),
        percent=entry.get("percent", 0),  # Go leaves out a zero that is not a pointer
        tag=entry.get("tag", ""),
        latest=entry.get("latestRevision", False),
    )
