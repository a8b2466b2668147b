"""The live evidence, read from Prometheus.

What belongs here: which series are what, and Prometheus's HTTP API. What does not: how a counter's growth is computed
(`series`).

The transformer counts calls of the predictor by arm and revision. Revisions are what is asked for: an arm's name says
where requests are sent now, a revision's says which pods answered.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from rollout.evidence import EvidenceUnavailable
from rollout.measurements import ArmCounts, Calls, Histogram, LiveDistributions, Look
from rollout.series import Series, growths, parse_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from rollout.release import Release

    Growths = list[tuple[Series, float]]

CALLS = "transformer_upstream_requests_total"
SETTLED_SECONDS = "transformer_upstream_settled_duration_seconds_bucket"
AREA_M2 = "transformer_ellipse_area_square_meters_bucket"
CONFIDENCE = "transformer_confidence_bucket"
PROCESS_START = "process_start_time_seconds"

_OUTCOMES = {"409": None, "unreachable": "unreachable", "timeout": "timed_out", "invalid": "invalid"}
_OUTCOMES_BY_CLASS = {"2": "succeeded", "4": "refused"}
_WHOLE_ERROR = 300


class PrometheusEvidence:
    """`Counters` from a Prometheus that reads the transformer; use it as a context manager.

    Args:
        url: Such as http://prometheus:9090.
        selector: Label matchers that name the transformer's pods, such as `namespace="radio"`; without braces.
        timeout_s: Of one query.
        stale_after_s: Counts whose newest sample is older say nothing of now: Prometheus does not read the pods.
        headers: Sent with each query, such as an authorization.
        clock: Unix time in seconds.
        transport: For tests.
    """

    def __init__(
        self,
        url: str,
        selector: str = "",
        *,
        timeout_s: float = 10.0,
        stale_after_s: float = 90.0,
        headers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._client = httpx.Client(base_url=url, timeout=timeout_s, headers=headers, transport=transport)
        self._selector = selector.strip().removeprefix("{").removesuffix("}").strip(" ,")
        self._stale_after_s = stale_after_s
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def look(self, release: Release, elapsed_s: float) -> Look:
        """Both arms' counts from the step's beginning until `elapsed_s` later; raises `EvidenceUnavailable`."""
        since_s = release.step_began_at.timestamp()
        found = self.counts((release.stable_revision, release.revision), since_s, since_s + elapsed_s)
        return Look(elapsed_s, found.get(release.stable_revision), found.get(release.revision))

    def live(self, release: Release) -> tuple[LiveDistributions, LiveDistributions] | None:
        """What clients of both versions were told since the step began, stable first; raises `EvidenceUnavailable`."""
        if release.champion is None or release.champion.version == release.challenger.version:
            return None
        versions = release.champion.version, release.challenger.version
        found = self.distributions(versions, release.step_began_at.timestamp(), self._clock())
        stable, canary = (found.get(version) for version in versions)
        return None if stable is None or canary is None else (stable, canary)

    def counts(self, revisions: Sequence[str], since_s: float, until_s: float) -> dict[str, ArmCounts]:
        """What each revision's predictor was asked and how long it took, between two moments in Unix time.

        A revision that was never called is missing from the answer, and so are all of them before any call of any
        of them succeeded.

        Raises:
            EvidenceUnavailable: Prometheus cannot be asked, or has not read the transformer lately.
        """
        starts = self._samples(PROCESS_START, {}, since_s, until_s)
        calls = self._grown(CALLS, {"revision": revisions}, starts, since_s, until_s)
        self._require_fresh([series for series, _ in calls], until_s)
        durations = self._grown(SETTLED_SECONDS, {"revision": revisions}, starts, since_s, until_s)
        histograms = _histograms(durations, "revision")
        if not histograms:
            return {}
        bounds = next(iter(histograms.values())).bounds
        none = Histogram(bounds, (0.0,) * (len(bounds) + 1))
        by_code = _by_label(calls, "revision")
        return {
            revision: ArmCounts(_calls(found), histograms.get(revision, none)) for revision, found in by_code.items()
        }

    def distributions(self, versions: Sequence[str], since_s: float, until_s: float) -> dict[str, LiveDistributions]:
        """What clients of each model version were told between two moments in Unix time; raises as `counts`."""
        starts = self._samples(PROCESS_START, {}, since_s, until_s)
        areas, confidences = (
            _histograms(self._grown(metric, {"version": versions}, starts, since_s, until_s), "version")
            for metric in (AREA_M2, CONFIDENCE)
        )
        return {
            version: LiveDistributions(areas[version], confidences[version])
            for version in areas
            if version in confidences
        }

    def _grown(
        self, metric: str, labels: Mapping[str, Sequence[str]], starts: Sequence[Series], since_s: float, until_s: float
    ) -> Growths:
        return list(growths(self._samples(metric, labels, since_s, until_s), starts, since_s))

    def _samples(
        self, metric: str, labels: Mapping[str, Sequence[str]], since_s: float, until_s: float
    ) -> tuple[Series, ...]:
        """Every raw sample of a metric between the two moments."""
        matchers = [f"{name}=~{json.dumps('|'.join(map(re.escape, texts)))}" for name, texts in labels.items()]
        chosen = ",".join([*matchers, *([self._selector] if self._selector else [])])
        window_ms = max(round(1e3 * (until_s - since_s)), 1)
        try:
            return parse_matrix(self._ask(f"{metric}{{{chosen}}}[{window_ms}ms]", until_s))
        except ValueError as error:
            raise EvidenceUnavailable(f"Prometheus answered {error}") from error

    def _ask(self, query: str, at_s: float) -> Any:  # noqa: ANN401 - JSON of another program
        try:
            answer = self._client.post("/api/v1/query", data={"query": query, "time": f"{at_s:.3f}"})
        except httpx.HTTPError as error:
            raise EvidenceUnavailable(f"Prometheus cannot be asked: {str(error) or type(error).__name__}") from error
        try:
            document = orjson.loads(answer.content)
            if document["status"] == "success" and not document.get("warnings"):
                return document["data"]["result"]
            said = document.get("warnings") or document.get("error")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            said = answer.text
        raise EvidenceUnavailable(f"Prometheus answered {answer.status_code}: {str(said)[:_WHOLE_ERROR]}")

    def _require_fresh(self, found: Sequence[Series], until_s: float) -> None:
        if not found:
            return
        age_s = until_s - max(float(series.at_s[-1]) for series in found)
        if age_s > self._stale_after_s:
            raise EvidenceUnavailable(f"Prometheus last read the transformer {age_s:.0f} s ago")


def _by_label(grown: Growths, label: str) -> dict[str, Growths]:
    found: defaultdict[str, Growths] = defaultdict(list)
    for series, growth in grown:
        found[series.labels.get(label, "")].append((series, growth))
    return found


def _calls(grown: Growths) -> Calls:
    """The calls of one revision by what came of them; what is neither 2xx, 4xx nor without a status is a failure."""
    counts = dict.fromkeys(Calls.__dataclass_fields__, 0.0)
    for series, growth in grown:
        code = series.labels.get("code", "")
        outcome = _OUTCOMES[code] if code in _OUTCOMES else _OUTCOMES_BY_CLASS.get(code[:1], "failed")
        if outcome is not None:
            counts[outcome] += growth
    return Calls(**counts)


def _histograms(grown: Growths, label: str) -> dict[str, Histogram]:
    """The histogram of each value of a label, added up over processes, which have to use the same buckets."""
    found = {value: _histogram(series) for value, series in _by_label(grown, label).items()}
    if len({histogram.bounds for histogram in found.values()}) > 1:
        raise EvidenceUnavailable("the transformer's pods count durations in different buckets")
    return found


def _histogram(grown: Growths) -> Histogram:
    totals: defaultdict[float, float] = defaultdict(float)
    processes: defaultdict[float, int] = defaultdict(int)
    for series, growth in grown:
        bound = float(series.labels["le"])
        totals[bound] += growth
        processes[bound] += 1
    bounds = sorted(totals)
    if len(set(processes.values())) != 1 or bounds[-1] != float("inf"):
        raise EvidenceUnavailable("the transformer's pods count durations in different buckets")
    cumulated = [totals[bound] for bound in bounds]
    counts = [high - low for low, high in zip([0.0, *cumulated], cumulated, strict=False)]
    return Histogram(tuple(bounds[:-1]), tuple(counts))
