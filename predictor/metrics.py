"""The predictor's figures for Prometheus, made from the recorders whenever somebody scrapes.

What belongs here: names, labels and help texts. What does not: counting (`recorder`).

The SDK's `/metrics` shows the default registry; its own metrics begin with `request_`, ours with `predictor_`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from predictor.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import Metric

    from predictor.recorder import Distribution

LABELS = ("model", "version")

_DISTRIBUTIONS = (
    ("request_s", "request_duration_seconds", "Time from a request's arrival to its answer"),
    ("queue_s", "queue_seconds", "Time a request waited for a worker"),
    ("run_s", "run_seconds", "Time of one run of the model"),
    ("rows", "batch_size", "Items in one run of the model"),
)


_KEPT = 8
"""Versions that have ended and are still shown, so that nothing grows with the number of reloads."""


class PredictorMetrics(Collector):
    """Everything that is known of one model, version by version.

    Args:
        model_name: The label `model`.
    """

    def __init__(self, model_name: str) -> None:
        self.in_flight = 0
        self.queued: Callable[[], int] = lambda: 0
        self.loads = {"ok": 0, "failed": 0}
        self._model_name = model_name
        self._versions: dict[str, Recorder] = {}
        self._info: dict[str, dict[str, str]] = {}

    def serves(self, version: str, recorder: Recorder, digests: dict[str, str]) -> None:
        """From now on `recorder` counts for this version, which has these digests."""
        self._versions[version] = recorder
        self._info[version] = digests

    def ended(self, version: str) -> None:
        """The version is no longer served: its information goes, its counters stay until `_KEPT` others have ended."""
        self._info.pop(version, None)
        ended = [one for one in self._versions if one and one not in self._info]
        for one in ended[:-_KEPT]:
            del self._versions[one]

    def recorder(self, version: str) -> Recorder | None:
        """The recorder of a version that is or was served."""
        return self._versions.get(version)

    def unattributed(self) -> Recorder:
        """Counts requests that never came as far as a version: unknown names, broken bodies before any answer."""
        return self._versions.setdefault("", Recorder())

    def collect(self) -> Iterator[Metric]:
        """All metrics, as prometheus-client asks for them."""
        versions = list(self._versions.items())
        requests = CounterMetricFamily("predictor_requests", "Requests by status", labels=(*LABELS, "code"))
        for version, recorder in versions:
            for code, count in list(recorder.codes.items()):
                requests.add_metric((self._model_name, version, str(code)), count)
        yield requests
        for attribute, name, text in _DISTRIBUTIONS:
            distributions = [(version, getattr(recorder, attribute)) for version, recorder in versions]
            yield self._histogram(name, text, distributions)
        yield self._gauge("in_flight", "Requests that run or wait", self.in_flight)
        yield self._gauge("queued", "Requests that are with the workers, running or waiting", self.queued())
        yield self._loads()
        yield self._model_info()

    def _histogram(
        self, name: str, text: str, distributions: Sequence[tuple[str, Distribution]]
    ) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"predictor_{name}", text, labels=LABELS)
        for version, one in distributions:
            bounds = [*map(str, map(float, one.bounds)), "+Inf"]
            family.add_metric(
                (self._model_name, version), list(zip(bounds, accumulate(one.counts), strict=True)), one.total
            )
        return family

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"predictor_{name}", text, labels=("model",))
        family.add_metric((self._model_name,), value)
        return family

    def _loads(self) -> CounterMetricFamily:
        family = CounterMetricFamily("predictor_loads", "Attempts to load a version", labels=("model", "result"))
        for result, count in self.loads.items():
            family.add_metric((self._model_name, result), count)
        return family

    def _model_info(self) -> GaugeMetricFamily:
        labels = (*LABELS, "model_digest", "contract_digest")
        family = GaugeMetricFamily("predictor_model_info", "What is served; always 1", labels=labels)
        for version, digests in list(self._info.items()):
            digest_labels = (digests.get("model_digest", ""), digests.get("contract_digest", ""))
            family.add_metric((self._model_name, version, *digest_labels), 1)
        return family
