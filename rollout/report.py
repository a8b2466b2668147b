"""The report of one release: a page that stands alone.

What belongs here: which figures and drawings the page has, and rendering it. What does not: drawing (`plots`), and
the page's words and layout (`templates/report.html.j2`).

The page needs nothing but itself: no script, no font, no image from anywhere. So it can be kept with the release, sent
by mail and printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2

from rollout import plots
from rollout.figures import QUANTILES, ArmFigures, ProbeFigures, arm_figures, probe_figures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.evidence import Places
    from rollout.measurements import Look, Measurements
    from rollout.release import Release
    from rollout.verdict import Verdict

_TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What is told of a release.

    Attributes:
        release: Its history.
        measurements: The last that were judged; None where nothing was measured.
        places: Where both versions put the probe set's captures; None where it was not sent.
        verdict: Of a step that is not over yet; None between steps.
    """

    release: Release
    measurements: Measurements | None = None
    places: Places | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class _Drawing:
    """One drawing of the page, or why there is none.

    Attributes:
        anchor: Its name in the page's address.
        title: Its heading.
        text: What it shows, for everybody.
        svg: Empty where there is nothing to draw.
    """

    anchor: str
    title: str
    text: str
    svg: tuple[str, ...]


def render(report: Report) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rollout"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        release=report.release,
        verdict=report.verdict,
        arms=_arms(report),
        quantiles=QUANTILES,
        probe=_probe(report),
        notes=report.verdict.notes if report.verdict is not None else _last_notes(report.release),
        drawings=list(_drawings(report)),
    )


def _drawings(report: Report) -> Iterator[_Drawing]:
    look, probe, live = _look(report), _probe(report), report.measurements and report.measurements.live
    arms = _arms(report)
    yield _Drawing(
        "latency",
        "Latency",
        "Successful calls of each version's predictor, misses only, without the first seconds of a revision and of a "
        "transformer's process. The bands hold at 95 % at any number of looks; the dotted line is the quantile that is "
        "judged.",
        () if look is None else (_latency(look, report.release.policy.latency_quantile),),
    )
    yield _Drawing(
        "errors",
        "Errors",
        "Failed calls of each version's predictor, with intervals that hold at 95 % at any number of looks.",
        () if arms is None else (plots.errors(arms),),
    )
    yield _Drawing(
        "calibration",
        "Calibration",
        "How often the known position of the probe set's captures lay in the served ellipses. Honest ellipses lie at "
        "zero; below it they are too small.",
        () if probe is None else (plots.calibration(probe, report.release.policy.coverage_tolerance),),
    )
    yield _Drawing(
        "disagreements",
        "Map of disagreements",
        "Each line leads from the champion's position of a capture to the challenger's.",
        () if report.places is None else (plots.disagreements(report.places),),
    )
    yield _Drawing(
        "live",
        "Live answers",
        "What clients were told. Being different is no fault: the probe set knows who is right.",
        ()
        if not live
        else (
            plots.distributions(
                "area of the 95 % ellipse", ", km²", [one.area_m2 for one in live], logarithmic=True, scale=1e-6
            ),
            plots.distributions("confidence", "", [one.confidence for one in live], logarithmic=False, scale=1.0),
        ),
    )


def _latency(look: Look, probability: float) -> str:
    return plots.latency([arm.latency_s for arm in (look.stable, look.canary) if arm is not None], probability)


def _look(report: Report) -> Look | None:
    """The last look, if it saw both arms."""
    looks = report.measurements.looks if report.measurements is not None else ()
    complete = [look for look in looks if look.stable is not None and look.canary is not None]
    return complete[-1] if complete else None


def _arms(report: Report) -> tuple[ArmFigures, ArmFigures] | None:
    look = _look(report)
    if look is None or look.stable is None or look.canary is None:
        return None
    return arm_figures(look.stable), arm_figures(look.canary)


def _probe(report: Report) -> ProbeFigures | None:
    if report.measurements is None or report.measurements.probe is None:
        return None
    return probe_figures(report.measurements.probe)


def _last_notes(release: Release) -> tuple[str, ...]:
    return release.steps[-1].verdict.notes if release.steps else ()
