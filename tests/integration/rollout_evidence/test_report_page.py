"""A release's report in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import norm

from rollout.assess import assess
from rollout.evidence import Places
from rollout.measurements import (
    ArmCounts,
    Calls,
    Histogram,
    LiveDistributions,
    Look,
    Measurements,
    ProbeAnswers,
    ProbeResults,
)
from rollout.release import Event, Stage, StepResult
from rollout.report import Report, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from rollout.release import Release

SECTIONS = ["versions", "timeline", "steps", "figures", "latency", "errors", "calibration", "disagreements", "live"]
LEVELS = (0.5, 0.95)
_LOAD_S = 30.0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium without a window, which writes down what pages say on their console."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no chromium or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.set_page_load_timeout(_LOAD_S)
    yield found
    found.quit()


@pytest.fixture
def report(begun: Callable[..., Release]) -> Report:
    """A release that was rolled back, because its ellipses are half as large as they should be."""
    measurements = Measurements((_look(),), _probe(500), (_live(), _live()))
    release = begun(probe_captures=500)
    verdict = assess(measurements, release.policy)
    step = StepResult(5, release.step_began_at, release.step_began_at, verdict, 500.0, 5_000.0)
    events = (
        Event(release.began_at, Stage.CANARY, 5, "5 % of the requests go to the challenger"),
        Event(release.began_at, Stage.ROLLED_BACK, None, "the champion serves alone"),
    )
    reason = verdict.reasons[0].sentence
    over = replace(release, stage=Stage.ROLLED_BACK, reason=reason, steps=(step,), events=events)
    truth = np.random.default_rng(1).uniform((44.0, 7.0), (46.0, 9.0), (500, 2))
    places = Places(truth, truth + 0.05, truth - 0.05, truth[:, 0] > 45.5)
    return Report(over, measurements, places)


def _look() -> Look:
    bounds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

    def durations(calls: int, median_s: float) -> Histogram:
        below = norm.cdf(np.log(np.array(bounds) / median_s) / 0.4)
        return Histogram(bounds, tuple(np.round(calls * np.diff(below, prepend=0.0, append=1.0)).tolist()))

    stable = ArmCounts(Calls(5_000.0, failed=50.0), durations(5_000, 0.012))
    return Look(300.0, stable, ArmCounts(Calls(500.0, failed=5.0), durations(500, 0.013)))


def _live() -> LiveDistributions:
    return LiveDistributions(
        Histogram((1e8, 1e9, 1e10), (10.0, 90.0, 100.0, 5.0)), Histogram((0.25, 0.5, 1.0), (60.0, 80.0, 65.0, 0.0))
    )


def _probe(captures: int) -> ProbeResults:
    rng = np.random.default_rng(2)
    error_m = rng.normal(size=(captures, 2)) * 2e4

    def answers(sigma_m: float) -> ProbeAnswers:
        square = (error_m**2).sum(axis=1) / sigma_m**2
        inside = np.stack([square <= -2.0 * np.log1p(-level) for level in LEVELS], axis=-1)
        covariance = np.tile(np.eye(2) * sigma_m**2, (captures, 1, 1))
        return ProbeAnswers(error_m, covariance, inside, np.full(captures, 0.5))

    return ProbeResults(LEVELS, np.arange(captures), answers(2e4), answers(1e4))


def _requested(browser: Chrome) -> list[str]:
    """The addresses that the browser asked for since it was last asked."""
    messages: list[Any] = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone(browser: Chrome, report: Report, tmp_path: Path, scheme: str) -> None:
    """Nothing is fetched, nothing is complained of, and every section and drawing can be seen, in both schemes."""
    page = tmp_path / "report.html"
    page.write_text(render(report), encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    _requested(browser)
    browser.get(page.as_uri())
    asked = [url for url in _requested(browser) if not url.startswith("data:")]
    assert asked == [page.as_uri()]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
    for section in SECTIONS:
        assert browser.find_element("id", section).is_displayed()
    drawings = browser.find_elements("css selector", "figure > svg[role=img][aria-label]")
    sizes = [(drawing.size["width"], drawing.size["height"]) for drawing in drawings]
    assert len(sizes) == 6
    assert min(map(min, sizes)) > 100
    ink, paper = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    tick = browser.find_element("css selector", "#latency svg text")
    assert browser.execute_script("return getComputedStyle(arguments[0]).fill", tick) == ink != paper


def test_what_a_person_reads_first(browser: Chrome, report: Report, tmp_path: Path) -> None:
    """The title, the stage and the reason are on the first screen."""
    page = tmp_path / "report.html"
    page.write_text(render(report), encoding="utf-8")
    browser.set_window_size(1_000, 700)
    browser.get(page.as_uri())
    assert browser.title == "loc: localization version 2, rolled-back"
    assert browser.find_element("id", "stage").text == "rolled-back"
    why = browser.find_element("id", "why")
    assert "log-likelihood" in why.text
    assert why.location["y"] < 700
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_it_can_be_printed(browser: Chrome, report: Report, tmp_path: Path) -> None:
    """Some pages of PDF, black on white whatever the scheme."""
    page = tmp_path / "report.html"
    page.write_text(render(report), encoding="utf-8")
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(printed["data"]) > 20_000
