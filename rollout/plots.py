"""A release's figures as drawings: SVG to be put into a page.

What belongs here: drawing, by matplotlib, without a display. What does not: the figures (`figures`), and the page
(`report`).

Lines and letters have the colour of the page's text, so that a drawing can be read on a light and on a dark page.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from rollout.proportions import Counts, lower_bound, upper_bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from rollout.arrays import F64
    from rollout.evidence import Places
    from rollout.figures import ArmFigures, Interval, ProbeFigures
    from rollout.measurements import Histogram

STABLE_COLOUR, CANARY_COLOUR = "#3b82d6", "#d9772b"
"""Blue and orange: told apart by people who do not see red and green, on white and on black."""

_INK = "#010203"
"""Stands for the colour of the page's text until the drawing is written."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.framealpha": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NAMES = ("champion", "challenger")
_COLOURS = (STABLE_COLOUR, CANARY_COLOUR)
_LINES = ("--", "-")
_ALPHA = 0.05
_WIDTH_IN, _HEIGHT_IN = 7.2, 4.0


def latency(durations_s: Sequence[Histogram], probability: float) -> str:
    """The distribution of both arms' durations with the 95 % confidence sequence of each bucket's share."""
    figure, axes = _axes("latency")
    for histogram, colour, line, name in zip(durations_s, _COLOURS, _LINES, _NAMES, strict=True):
        total, below = histogram.total, np.cumsum(histogram.counts)[:-1]
        if total <= 0.0:
            continue
        counts, milliseconds = Counts(below, total), 1e3 * np.asarray(histogram.bounds)
        axes.plot(milliseconds, below / total, color=colour, linestyle=line, label=f"{name}, {total:g} calls")
        axes.fill_between(
            milliseconds, lower_bound(counts, _ALPHA), upper_bound(counts, _ALPHA), color=colour, alpha=0.2, linewidth=0
        )
    axes.axhline(probability, color=_INK, linewidth=0.7, linestyle=":")
    axes.set_xlim(*(1e3 * edge for edge in _range(durations_s)))
    axes.set(xlabel="duration of a call, ms", ylabel="share of calls that were as fast", ylim=(0.0, 1.02))
    _logarithmic(axes)
    return _svg(figure, axes, "Distribution of the durations of both versions' calls")


def errors(arms: Sequence[ArmFigures]) -> str:
    """Both arms' error ratios with their 95 % confidence sequences."""
    figure, axes = _axes("errors", height_in=2.2)
    for row, (arm, colour) in enumerate(zip(arms, _COLOURS, strict=True)):
        if arm.error_ratio.known:
            _whisker(axes, arm.error_ratio, row, colour, scale=100.0)
    axes.set(yticks=[0, 1], ylim=(1.6, -0.6), xlabel="calls that failed, %")
    axes.set_yticklabels(_NAMES)
    axes.set_xlim(left=0.0)
    return _svg(figure, axes, "Share of failed calls of both versions", legend=False)


def calibration(found: ProbeFigures, tolerance: float) -> str:
    """How much more or less often than promised the truth lay in the ellipses of each level, with 95 % intervals."""
    figure, axes = _axes("calibration")
    axes.axhline(0.0, color=_INK, linewidth=0.7, linestyle=":", label="honest")
    axes.axhspan(-100.0 * tolerance, 100.0 * tolerance, color=_INK, alpha=0.07, linewidth=0, label="allowed")
    levels = np.asarray(found.levels)
    shifts = (-0.4, 0.4)  # so that the intervals of both versions can be told apart
    for version, colour, line, name, shift in zip(
        (found.stable, found.canary), _COLOURS, _LINES, _NAMES, shifts, strict=True
    ):
        value, low, high = (
            100.0 * (np.array([getattr(one, part) for one in version.coverage]) - levels)
            for part in ("value", "low", "high")
        )
        reach = np.maximum([value - low, high - value], 0.0)
        axes.errorbar(
            100.0 * levels + shift, value, yerr=reach, color=colour, linestyle=line, marker="o", capsize=3.0, label=name
        )
    axes.set(xlabel="promised by the ellipse, %", ylabel="true position inside,\npoints more than promised")
    return _svg(figure, axes, "Coverage of the error ellipses against what they promise")


def disagreements(places: Places) -> str:
    """A map: a line from the champion's position to the challenger's for each capture."""
    figure, axes = _axes("map", height_in=6.0)
    for chosen, colour, width, name in (
        (~places.outside, STABLE_COLOUR, 0.5, "within each other's ellipses"),
        (places.outside, CANARY_COLOUR, 1.2, "outside of both 95 % ellipses"),
    ):
        longitude, latitude = _polyline(places.stable_deg[chosen], places.canary_deg[chosen])
        axes.plot(longitude, latitude, color=colour, linewidth=width, label=f"{int(chosen.sum())} {name}")
        axes.plot(longitude[1::3], latitude[1::3], color=colour, linestyle="none", marker=".", markersize=3 * width)
    middle = float(np.mean(places.truth_deg[:, 0]))
    axes.set_aspect(1.0 / float(np.cos(np.deg2rad(middle))), adjustable="datalim")
    axes.set(xlabel="longitude, degrees", ylabel="latitude, degrees")
    return _svg(figure, axes, "Map of the distances between both versions' positions")


def distributions(name: str, unit: str, histograms: Sequence[Histogram], *, logarithmic: bool, scale: float) -> str:
    """How a live figure is distributed for both versions, as shares that are not larger."""
    figure, axes = _axes(f"live {name}", height_in=3.0)
    for histogram, colour, line, version in zip(histograms, _COLOURS, _LINES, _NAMES, strict=True):
        if histogram.total > 0.0:
            below = np.cumsum(histogram.counts)[:-1] / histogram.total
            label = f"{version}, {histogram.total:g} answers"
            axes.plot(scale * np.asarray(histogram.bounds), below, color=colour, linestyle=line, label=label)
    axes.set(xlabel=f"{name}{unit}", ylabel="share of answers up to it", ylim=(0.0, 1.02))
    axes.set_xlim(*(scale * edge for edge in _range(histograms)))
    if logarithmic:
        _logarithmic(axes)
    return _svg(figure, axes, f"Distribution of {name} in the answers to clients")


def _axes(salt: str, height_in: float = _HEIGHT_IN) -> tuple[Figure, Axes]:
    # The salt makes the names of a drawing's parts its own: several drawings are in one page.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        figure.set_label(salt)
        axes = figure.add_subplot()
        axes.grid(visible=True, color=_INK, alpha=0.15, linewidth=0.6)
    return figure, axes


def _range(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """The bounds between which all values lie, as far as bounds can tell."""
    bounds = histograms[0].bounds
    counts = np.sum([one.counts for one in histograms], axis=0)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return bounds[0], bounds[-1]
    first, last = max(int(filled[0]) - 1, 0), min(int(filled[-1]), len(bounds) - 1)
    return bounds[min(first, last - 1)] if last else bounds[0] / 2.0, bounds[last]


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _whisker(axes: Axes, interval: Interval, row: int, colour: str, scale: float) -> None:
    low, value, high = (scale * number for number in (interval.low, interval.value, interval.high))
    axes.errorbar(
        value, row, xerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]], color=colour, fmt="o", capsize=4
    )


def _polyline(origin_deg: F64, target_deg: F64) -> tuple[F64, F64]:
    """Longitudes and latitudes of all lines as one, with gaps between them: thousands of paths are slow to show."""
    gap = np.full(len(origin_deg), np.nan)
    latitude, longitude = (
        np.stack([origin_deg[:, column], target_deg[:, column], gap], axis=-1).ravel() for column in (0, 1)
    )
    return longitude, latitude


def _svg(figure: Figure, axes: Axes, title: str, *, legend: bool = True) -> str:
    """The drawing as an element of a page, with a title for those who cannot see it."""
    text = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": figure.get_label()}):
        if legend and axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(_INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
