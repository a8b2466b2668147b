from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import httpx
import pytest

from rollout.evidence import EvidenceUnavailable
from rollout.measurements import Calls
from rollout.policy import Policy
from rollout.prometheus import PrometheusEvidence
from rollout.release import ModelVersion, Release, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

BEGAN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SINCE_S = BEGAN.timestamp()
SECONDS, AREA, CONFIDENCE = (
    "transformer_upstream_settled_duration_seconds_bucket",
    "transformer_ellipse_area_square_meters_bucket",
    "transformer_confidence_bucket",
)


class Store:
    """A Prometheus with two samples of each series: soon after the step's beginning, and 50 s after it."""

    def __init__(self) -> None:
        self.series: list[tuple[dict[str, str], float, float]] = []
        self.queries: list[dict[str, str]] = []
        self.read_at_s = SINCE_S + 50.0
        self.add("process_start_time_seconds", 1.0, 1.0)

    def add(self, name: str, before: float, after: float, **labels: str) -> None:
        """One series."""
        self.series.append(({"__name__": name, "pod": "t-1"} | labels, before, after))

    def histogram(self, name: str, counts: tuple[int, ...], **labels: str) -> None:
        """The series of one histogram with the bounds 1, 2 and so on, empty at first."""
        total, bounds = 0, [*map(str, range(1, len(counts))), "+Inf"]
        for bound, count in zip(bounds, counts, strict=True):
            total += count
            self.add(name, 0.0, total, le=bound, **labels)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What the HTTP API answers to the queries of this room."""
        form = {name: texts[0] for name, texts in parse_qs(request.content.decode()).items()}
        self.queries.append(form)
        matched = re.fullmatch(r"(\w+)\{(.*)\}\[(\d+)ms\]", form["query"])
        assert matched is not None, form["query"]
        wanted = [(name, json.loads(text)) for name, text in re.findall(r'(\w+)=~?("(?:[^"\\]|\\.)*")', matched[2])]
        result = [
            {"metric": labels, "values": [[SINCE_S + 5.0, str(before)], [self.read_at_s, str(after)]]}
            for labels, before, after in self.series
            if labels["__name__"] == matched[1]
            and all(re.fullmatch(text, labels.get(name, "t-1")) for name, text in wanted)
        ]
        return httpx.Response(200, json={"status": "success", "data": {"resultType": "matrix", "result": result}})


@pytest.fixture
def store() -> Store:
    """A Prometheus to be filled."""
    return Store()


def _evidence(answer: Callable[[httpx.Request], httpx.Response], selector: str = "") -> PrometheusEvidence:
    transport = httpx.MockTransport(answer)
    return PrometheusEvidence("http://prometheus", selector, clock=lambda: SINCE_S + 60.0, transport=transport)


def _release(champion: str | None = "3") -> Release:
    stable = None if champion is None else ModelVersion("loc", champion, "s3://b/3", "sha256:3")
    challenger = ModelVersion("loc", "4", "s3://b/4", "sha256:4")
    return Release(
        "r-1", "radio", "loc", challenger, stable, Policy(), Stage.CANARY, 0, BEGAN, BEGAN,
        revision="loc-predictor-00002", stable_revision="loc-predictor-00001",
    )  # fmt: skip


def _calls(store: Store, revision: str, **codes: int) -> None:
    for code, count in codes.items():
        store.add("transformer_upstream_requests_total", 7.0, 7.0 + count, revision=revision, code=code.lstrip("_"))


def test_a_look_counts_both_revisions(store: Store) -> None:
    """Growth by what came of each call: 409 is counted nowhere, and what is no known status is a failure."""
    outcomes = {"_200": 50, "_409": 9, "_404": 1, "_500": 2, "_503": 3, "_302": 1}
    _calls(store, "loc-predictor-00002", **outcomes, unreachable=4, timeout=5, invalid=6)
    _calls(store, "loc-predictor-00001", _200=500)
    store.histogram(SECONDS, (10, 20, 5), revision="loc-predictor-00002")
    store.histogram(SECONDS, (100, 200, 50), revision="loc-predictor-00001")
    with _evidence(store.answer) as evidence:
        look = evidence.look(_release(), 60.0)
    assert look.elapsed_s == 60.0
    assert look.stable is not None
    assert look.canary is not None
    assert look.stable.calls == Calls(500.0)
    assert look.canary.calls == Calls(50.0, refused=1.0, failed=6.0, unreachable=4.0, timed_out=5.0, invalid=6.0)
    assert look.canary.latency_s.bounds == (1.0, 2.0)
    assert look.canary.latency_s.counts == (10.0, 20.0, 5.0)
    assert look.stable.latency_s.counts == (100.0, 200.0, 50.0)


def test_what_is_asked(store: Store) -> None:
    """Raw samples by revision and by the given selector, from the step's beginning until the look."""
    _calls(store, "loc-predictor-00002", _200=1)
    _evidence(store.answer, '{namespace="radio",}').look(_release(), 60.0)
    query = store.queries[1]["query"]
    assert query.startswith('transformer_upstream_requests_total{revision=~"')
    assert query.endswith(',namespace="radio"}[60000ms]')
    assert {form["time"] for form in store.queries} == {f"{SINCE_S + 60.0:.3f}"}


def test_pods_are_added_up(store: Store) -> None:
    """A revision that two pods of the transformer called."""
    for pod in ("t-1", "t-2"):
        store.add("transformer_upstream_requests_total", 1, 11, revision="loc-predictor-00002", code="200", pod=pod)
        store.histogram(SECONDS, (3, 4), revision="loc-predictor-00002", pod=pod)
    look = _evidence(store.answer).look(_release(), 60.0)
    assert look.canary is not None
    assert (look.canary.calls.succeeded, look.canary.latency_s.counts) == (20.0, (6.0, 8.0))
    assert look.stable is None


def test_a_canary_that_only_fails_is_judged_by_its_calls(store: Store) -> None:
    """It has no durations at all: its histogram is empty, with the stable arm's buckets."""
    _calls(store, "loc-predictor-00002", unreachable=40)
    _calls(store, "loc-predictor-00001", _200=500)
    store.histogram(SECONDS, (100, 200, 50), revision="loc-predictor-00001")
    look = _evidence(store.answer).look(_release(), 60.0)
    assert look.canary is not None
    assert look.canary.calls.unreachable == 40.0
    assert (look.canary.latency_s.bounds, look.canary.latency_s.total) == ((1.0, 2.0), 0.0)


def test_before_any_call_succeeded_nothing_is_known(store: Store) -> None:
    """No arm, rather than buckets that would change."""
    _calls(store, "loc-predictor-00002", unreachable=4)
    look = _evidence(store.answer).look(_release(), 60.0)
    assert (look.stable, look.canary) == (None, None)


def test_old_counts_are_no_evidence(store: Store) -> None:
    """Prometheus answers, but has not read the pods for minutes."""
    _calls(store, "loc-predictor-00002", _200=50)
    with pytest.raises(EvidenceUnavailable, match="last read the transformer 250 s ago"):
        _evidence(store.answer).look(_release(), 300.0)


@pytest.mark.parametrize("bounds", [("1", "2", "3", "+Inf"), ("1", "2")], ids=["more buckets", "no last bucket"])
def test_different_buckets_are_not_added_up(store: Store, bounds: tuple[str, ...]) -> None:
    """Pods of two releases of the transformer with other buckets cannot be compared."""
    _calls(store, "loc-predictor-00002", _200=1)
    store.histogram(SECONDS, (3, 4, 5), revision="loc-predictor-00001")
    for bound in bounds:
        store.add(SECONDS, 0.0, 1.0, revision="loc-predictor-00002", le=bound)
    with pytest.raises(EvidenceUnavailable, match="different buckets"):
        _evidence(store.answer).look(_release(), 60.0)


def test_live_distributions(store: Store) -> None:
    """Ellipse sizes and confidences of both versions, stable first."""
    for version, counts in (("3", (1, 2, 3)), ("4", (4, 5, 6))):
        store.histogram(AREA, counts, version=version)
        store.histogram(CONFIDENCE, counts[::-1], version=version)
    found = _evidence(store.answer).live(_release())
    assert found is not None
    assert [one.area_m2.counts for one in found] == [(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)]
    assert [one.confidence.counts for one in found] == [(3.0, 2.0, 1.0), (6.0, 5.0, 4.0)]


@pytest.mark.parametrize("champion", [None, "4", "3"])
def test_nothing_live_to_compare(store: Store, champion: str | None) -> None:
    """No champion, the challenger itself, or a version that nobody has asked."""
    store.histogram(AREA, (1, 2), version="4")
    store.histogram(CONFIDENCE, (1, 2), version="4")
    assert _evidence(store.answer).live(_release(champion)) is None


def _timed_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("", request=request)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_timed_out, "cannot be asked: ReadTimeout"),
        (lambda _: httpx.Response(502, text="bad gateway"), "answered 502: bad gateway"),
        (lambda _: httpx.Response(200, text="[]"), r"answered 200: \[\]"),
        (lambda _: httpx.Response(422, json={"status": "error", "error": "too many samples"}), "too many samples"),
        (
            lambda _: httpx.Response(200, json={"status": "success", "warnings": ["half of it"], "data": {}}),
            "half of it",
        ),
        (lambda _: httpx.Response(200, json={"status": "success", "data": {"result": [3]}}), "not a range vector"),
    ],
    ids=["too late", "a gateway", "no object", "refused", "partial", "no matrix"],
)
def test_prometheus_away(answer: Callable[[httpx.Request], httpx.Response], says: str) -> None:
    """Whatever keeps it from answering is one kind of error, which says what it was."""
    with pytest.raises(EvidenceUnavailable, match=says):
        _evidence(answer).look(_release(), 60.0)


def test_it_closes_its_connections() -> None:
    """After the block no query is sent."""
    with _evidence(lambda _: httpx.Response(200)) as evidence:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        evidence.look(_release(), 60.0)
