"""A map of receivers, transmitters, estimates and error ellipses, as one HTML page and as PNG.

What belongs here: drawing. What does not: what is drawn.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reference.geometry import RECEIVERS, WGS84

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from reference.arrays import F64

_OUTLINE_POINTS = 96
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:2rem;font-family:sans-serif}}svg{{max-width:100%;height:auto}}</style></head>
<body><h1>{title}</h1>
{svg}
</body></html>
"""


def write_map(directory: Path, truth_deg: F64, position_deg: F64, ellipse: F64, confidence_level: float) -> None:
    """Write `map.html` (self-contained) and `map.png`.

    Args:
        directory: Where to.
        truth_deg: [K,2] latitude, longitude of the transmitters.
        position_deg: [K,2] of the estimates.
        ellipse: [K,3] semi-major m, semi-minor m, bearing in degrees clockwise from north.
        confidence_level: What the ellipses promise.
    """
    title = f"Transmitters and their {confidence_level:.0%} ellipses"
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "heimdall"}):
        figure = _figure(truth_deg, position_deg, ellipse)
        figure.savefig(directory / "map.png", dpi=110)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    page = _PAGE.format(title=title, svg=svg[svg.index("<svg") :])
    (directory / "map.html").write_text(page, encoding="utf-8")


def outline_deg(position_deg: F64, ellipse: F64) -> F64:
    """Closed outlines [K,97,2] (latitude, longitude) of ellipses [K,3] on WGS84."""
    angle = np.linspace(0.0, 2.0 * np.pi, _OUTLINE_POINTS + 1)
    along = ellipse[:, :1] * np.cos(angle)
    across = ellipse[:, 1:2] * np.sin(angle)
    bearing = ellipse[:, 2:] + np.rad2deg(np.arctan2(across, along))
    latitude, longitude = (np.broadcast_to(column[:, None], along.shape) for column in position_deg.T)
    east, north, _ = WGS84.fwd(longitude, latitude, bearing, np.hypot(along, across))
    return np.stack([north, east], axis=-1)


def _figure(truth_deg: F64, position_deg: F64, ellipse: F64) -> Figure:
    figure = Figure(figsize=(10.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_receivers(axes)
    for index, outline in enumerate(outline_deg(position_deg, ellipse)):
        colour = f"C{index % 10}"
        axes.plot(outline[:, 1], outline[:, 0], color=colour, linewidth=1.0)
        axes.plot(*np.stack([truth_deg[index], position_deg[index]])[:, ::-1].T, color=colour, linestyle=":")
        axes.plot(*truth_deg[index][::-1], marker="x", color=colour, markersize=9)
        axes.plot(*position_deg[index][::-1], marker="o", color=colour, markersize=5)
    axes.set_aspect(1.0 / np.cos(np.deg2rad(float(np.mean(truth_deg[:, 0])))))
    axes.set_xlabel("longitude, degrees")
    axes.set_ylabel("latitude, degrees")
    axes.set_title("▲ receiver   × transmitter   ● estimate")
    axes.grid(visible=True, alpha=0.3)
    return figure


def _draw_receivers(axes: Axes) -> None:
    for receiver in RECEIVERS:
        axes.plot(receiver.longitude, receiver.latitude, marker="^", color="black", markersize=8)
        axes.annotate(receiver.name, (receiver.longitude, receiver.latitude), xytext=(6, 6), textcoords="offset points")
