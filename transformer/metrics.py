"""What this component tells Prometheus; each metric's name, labels and buckets in one place.

What belongs here: the metrics, in a namespace of their own, in base units. What does not: the moments at which they are
counted.

Calls of the predictor are counted here, per arm and revision, because this is where the count survives a crash of the
predictor: it is the evidence that a canary is judged by. A metric's child is looked up once per set of labels: the
library's own lookup takes a lock and builds strings.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from transformer.traffic_watch import WatchState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import CollectorRegistry

    from transformer.arms import Arm
    from transformer.described_model import DescribedModel
    from transformer.traffic_watch import Snapshot

UNREACHABLE = "unreachable"
TIMEOUT = "timeout"
INVALID = "invalid"
"""Besides HTTP statuses, what the label `code` of a call of the predictor can be."""

SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Bounds of durations: 500 ms (the objective for P95) and 150 ms (with a warm cache) are bounds themselves, and below
5 ms, where a hit and a small model are, they resolve 1 ms."""

PROBABILITIES = (*(0.01, 0.02), *(round(0.05 * step, 2) for step in range(1, 20)), *(0.98, 0.99, 1.0))
"""Bounds of the model's confidence: even, as it is a probability, and finer at both ends, where models collapse."""

AREAS_M2 = tuple(factor * 10.0**exponent for exponent in range(1, 13) for factor in (1.0, 3.0))
"""Bounds of areas: about two a decade from 10 m² (receivers in one room) to 3·10¹² m² (nothing is known)."""

_DIGESTS = ("model_digest", "contract_digest")

Child = TypeVar("Child", Counter, Histogram)


class _Children(Generic[Child]):
    """The children of one metric, by their labels' values."""

    def __init__(self, metric: Child) -> None:
        self._metric: Child = metric
        self._children: dict[tuple[str, ...], Child] = {}

    def __getitem__(self, values: tuple[str, ...]) -> Child:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Metrics:
    """Every metric of the transformer. One per process and registry.

    Args:
        registry: The SDK's /metrics shows the default one.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> _Children[Counter]:
            return _Children(Counter(f"transformer_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> _Children[Histogram]:
            return _Children(Histogram(f"transformer_{name}", text, labels, buckets=buckets, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"transformer_{name}", text, labels, registry=registry)

        self._upstream = counter(
            "upstream_requests", "Calls of the predictor, retries included", "arm", "revision", "code"
        )
        self._upstream_s = histogram(
            "upstream_duration_seconds", "Duration of a call of the predictor", "arm", "revision"
        )
        self._settled_s = histogram(
            "upstream_settled_duration_seconds",
            "Duration of a successful call of the predictor, without those of the first seconds",
            "arm",
            "revision",
        )
        self._retries = counter("retries", "Calls that were repeated on the stable arm", "reason")
        self._denied = counter("retries_denied", "Repetitions that were not allowed", "reason")
        self._requests = counter("requests", "Answers to clients", "model", "version", "code")
        self._requests_s = histogram("request_duration_seconds", "Duration of a client's request", "model", "version")
        self._cache = counter("cache_events", "Items looked up in the cache, by what came of it", "event")
        self._repeats = counter("cache_repeats", "Lookups of what this process has stored before", "event")
        self._cache_up = gauge("cache_up", "1 while the cache is asked, 0 while its store is given a rest")
        self._invalid = Counter(
            "transformer_invalid_outputs", "Answers of the predictor that make no sense", registry=registry
        )
        self._degraded = counter("degraded", "Answered items that deserve less trust", "reason")
        self._confidence = histogram(
            "confidence", "The model's own confidence, per answered item", "version", buckets=PROBABILITIES
        )
        self._area = histogram(
            "ellipse_area_square_meters", "Area of the 95 % ellipse, per answered item", "version", buckets=AREAS_M2
        )
        self._in_flight = gauge("requests_in_flight", "Requests that are being answered")
        self._arm_percent = gauge("arm_percent", "Share of the requests that an arm is drawn for", "arm", "revision")
        self._arm_info = gauge(
            "arm_info", "1 for what an arm has answered with", "arm", "revision", "version", *_DIGESTS
        )
        self._serving: dict[tuple[str, str], DescribedModel] = {}
        self._watch_state = gauge("traffic_watch_state", "1 for the state that the watch is in", "state")

    def upstream(self, arm: Arm, code: str, duration_s: float) -> None:
        """Count one call of the predictor; `code` is an HTTP status, `UNREACHABLE`, `TIMEOUT` or `INVALID`."""
        self._upstream[arm.name, arm.revision, code].inc()
        self._upstream_s[arm.name, arm.revision].observe(duration_s)
        if code == INVALID:
            self._invalid.inc()

    def upstream_settled(self, arm: Arm, duration_s: float) -> None:
        """Count the duration of one ordinary call: an inference that succeeded, be it a first attempt or a repetition.

        Only what was not in the cache is called for, and calls of a revision, or of this process, that has just begun
        are left out (`settling`). So these durations are comparable between revisions, where those of all calls are
        not: a canary's are few, and most of the slow ones its first.
        """
        self._settled_s[arm.name, arm.revision].observe(duration_s)

    def retried(self, reason: str) -> None:
        """Count one repeated call; the reason is one of `upstream`'s."""
        self._retries[(reason,)].inc()

    def retry_denied(self, reason: str) -> None:
        """Count a call that was not repeated although its failure allowed it: no "budget", or no time ("deadline")."""
        self._denied[(reason,)].inc()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request as being answered for as long as this lasts."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def request_ended(self, model: str, version: str, code: int, duration_s: float) -> None:
        """Count one answer; `version` is empty where the request failed before an arm was drawn.

        `model` and `version` must be those that are served, never the client's words: every label value stays for good.
        """
        self._requests[model, version, str(code)].inc()
        self._requests_s[model, version].observe(duration_s)

    def cache_event(self, event: str, items: int = 1) -> None:
        """Count items by what the cache did: "hit", "miss", "error", "bypass" or "coalesced"."""
        self._cache[(event,)].inc(items)

    def cache_repeat(self, event: str) -> None:
        """Count a lookup of what this process has stored before: "hit", or "miss" where it was lost."""
        self._repeats[(event,)].inc()

    def cache_up(self, asked: Callable[[], bool]) -> None:
        """From now on every scrape shows whether the cache is asked."""
        self._cache_up.set_function(lambda: float(asked()))

    def degraded(self, reasons: Iterable[str]) -> None:
        """Count one item's reasons."""
        for reason in reasons:
            self._degraded[(reason,)].inc()

    def estimate(self, version: str, confidence: float | None, area_m2: float) -> None:
        """Count one answered item, a hit too: what clients are told is what a canary is compared by.

        Args:
            version: The model version that answered.
            confidence: The model's own, 0 to 1; None where it gives none.
            area_m2: Area of the 95 % ellipse, whatever level the client asked for, so that versions can be compared.
        """
        if confidence is not None:
            self._confidence[(version,)].observe(confidence)
        self._area[(version,)].observe(area_m2)

    def serves(self, arm: Arm, model: DescribedModel) -> None:
        """Show which version an arm has answered with; it stays until the arm answers with another, or is gone."""
        key = arm.name, arm.revision
        if self._serving.get(key) is not model:
            self._serving[key] = model
            self._show_serving()

    def _show_serving(self) -> None:
        self._arm_info.clear()
        for (name, revision), model in self._serving.items():
            self._arm_info.labels(name, revision, model.version, model.model_digest, model.contract.digest).set(1)

    def traffic(self, snapshot: Snapshot) -> None:
        """Show the arms and the state of the watch; arms that are gone disappear."""
        live = {(arm.name, arm.revision) for arm in snapshot.arms.candidates}
        self._serving = {key: model for key, model in self._serving.items() if key in live}
        self._show_serving()
        self._arm_percent.clear()
        for arm in snapshot.arms.candidates:
            self._arm_percent.labels(arm.name, arm.revision).set(arm.percent)
        for state in WatchState:
            self._watch_state.labels(state.value).set(float(state is snapshot.state))
