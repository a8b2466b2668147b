from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rollout.evidence import Places
from rollout.measurements import Histogram, LiveDistributions, Look, Measurements
from rollout.plots import CANARY_COLOUR, STABLE_COLOUR, latency
from rollout.policy import Policy
from rollout.release import Event, ModelVersion, Release, Stage, StepResult
from rollout.report import Report, render
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rollout.measurements import ProbeResults

BEGAN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECTIONS = {
    *("versions", "timeline", "steps", "figures", "latency", "errors", "calibration", "disagreements", "live"),
}
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page, and refuses one whose elements do not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Elements of SVG that are closed at once."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """It closes the last one that is open."""
        assert self.open.pop() == tag

    def values(self, tag: str, name: str) -> list[str]:
        """An attribute of all elements of a kind."""
        return [value for one, attribute, value in self.attributes if (one, attribute) == (tag, name)]


@pytest.fixture
def release() -> Release:
    """One that was rolled back at its second step."""
    model = ModelVersion("loc", "3", "s3://b/3", "sha256:3", metrics=(("rms_km", 31.9),))
    passed = Verdict(Outcome.PASS, (Reason("errors", Outcome.PASS, -0.001, 0.02, "few errors"),))
    slow = Reason("latency", Outcome.FAIL, 1.9, 1.25, "the canary is <slow> & late")
    waiting = Reason("probe set", Outcome.INCONCLUSIVE, None, None, "not run")
    failed = Verdict(Outcome.FAIL, (slow, waiting), ("a note",))
    return Release(
        "r-1", "radio", "loc", replace(model, version="4", model_digest="sha256:4"), model, Policy(),
        Stage.ROLLED_BACK, 1, BEGAN, BEGAN, reason="the canary is <slow> & late",
        events=(Event(BEGAN, Stage.CANARY, 5, "5 % is live"), Event(BEGAN, Stage.ROLLED_BACK, None, "over")),
        steps=(StepResult(5, BEGAN, BEGAN, passed, 500.0, 9_500.0), StepResult(25, BEGAN, BEGAN, failed, 70.0, 210.0)),
    )  # fmt: skip


@pytest.fixture
def measurements(look: Callable[..., Look], probe: Callable[..., ProbeResults]) -> Measurements:
    """Everything that can be measured."""
    live = LiveDistributions(Histogram((1e6, 1e9), (10.0, 20.0, 1.0)), Histogram((0.5, 1.0), (10.0, 21.0, 0.0)))
    return Measurements((look(), look(median_s=0.024)), probe(200), (live, live))


@pytest.fixture
def places() -> Places:
    """Three captures, of which one is disagreed on and one has no answer."""
    truth = np.array([[45.0, 7.0], [45.1, 7.1], [45.2, 7.2]])
    canary = truth + 0.1
    canary[2] = np.nan
    return Places(truth, truth, canary, np.array([True, False, False]))


def test_a_page_of_everything(release: Release, measurements: Measurements, places: Places) -> None:
    """Every section is there with its drawings, words from outside are escaped, and the reason is told."""
    text = render(Report(release, measurements, places))
    page = Page(text)
    assert set(page.values("section", "id")) == SECTIONS
    assert text.count("<svg") == 6
    assert "the canary is &lt;slow&gt; &amp; late" in text
    assert "<slow>" not in text
    for said in ("loc version 4 on radio/loc", "few errors", "31.9", "5 % is live", "a note", "not run"):
        assert said in text


def test_the_page_needs_nothing_else(release: Release, measurements: Measurements, places: Places) -> None:
    """No script, and no address that a browser would fetch."""
    text = render(Report(release, measurements, places))
    page = Page(text)
    fetched = [value for tag, name, value in page.attributes if name in {"src", "href", "xlink:href", "data"}]
    assert all(value.startswith(("#", "data:")) for value in fetched)
    assert not re.search(r"<script|@import|url\((?!#)|<iframe|<object|javascript:", text)


def test_drawings_are_told_apart(release: Release, measurements: Measurements, places: Places) -> None:
    """No two elements of the page have one name: a drawing would be clipped by another's outline."""
    text = render(Report(release, measurements, places))
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', one)) for one in drawings]
    assert sum(map(len, clips)) == len(set().union(*clips))


def test_a_page_of_nothing(release: Release) -> None:
    """A release that was refused before anything was measured has a page that says so."""
    refused = replace(release, stage=Stage.REFUSED, champion=None, steps=(), events=(), reason="")
    text = render(Report(refused))
    assert set(Page(text).values("section", "id")) == SECTIONS
    assert "<svg" not in text
    for said in ("No step has been judged", "none: nothing served before", "No live calls", "Nothing has happened yet"):
        assert said in text


def test_a_page_of_an_open_step(release: Release, measurements: Measurements) -> None:
    """While a step goes on, its verdict of now is told, and the latest event stands for the reason."""
    waiting = Verdict(Outcome.INCONCLUSIVE, (Reason("waiting", Outcome.INCONCLUSIVE, 60.0, 120.0, "too early"),))
    going = replace(release, stage=Stage.CANARY, reason="")
    text = render(Report(going, replace(measurements, live=None), None, waiting))
    assert "with 25 % of the requests" in text
    assert '<p id="why">over</p>' in text
    assert "too early" in text
    assert text.count("<svg") == 3


def test_an_arm_that_is_missing_is_not_drawn(release: Release, look: Callable[..., Look]) -> None:
    """A look that saw one arm gives no drawing of two; a canary without any duration is drawn as nothing."""
    assert "<svg" not in render(Report(release, Measurements((replace(look(), canary=None),))))
    seen = look()
    assert seen.canary is not None
    silent = replace(seen.canary, latency_s=Histogram(seen.canary.latency_s.bounds, (0.0,) * 18))
    text = render(Report(release, Measurements((replace(seen, canary=silent),))))
    assert text.count("<svg") == 2


def test_a_drawing_is_svg_in_the_pages_colours(look: Callable[..., Look]) -> None:
    """XML with a name for people who cannot see it; text and lines take the page's colour, the arms have their own."""
    seen = look()
    assert seen.stable is not None
    assert seen.canary is not None
    drawing = latency((seen.stable.latency_s, seen.canary.latency_s), 0.95)
    root = ET.fromstring(drawing)  # noqa: S314 - made here
    assert root.get("role") == "img"
    assert "durations" in str(root.get("aria-label"))
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawing))
    assert colours == {STABLE_COLOUR, CANARY_COLOUR}
    assert "currentColor" in drawing
