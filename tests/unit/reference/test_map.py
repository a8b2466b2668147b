from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from reference.geometry import RECEIVERS, WGS84
from reference.map import outline_deg, write_map

if TYPE_CHECKING:
    from pathlib import Path

POSITION = np.array([[45.0, 8.0], [44.5, 8.5]])
ELLIPSE = np.array([[40_000.0, 10_000.0, 30.0], [5_000.0, 5_000.0, 0.0]])


def test_outline_reaches_both_semi_axes_at_their_bearings() -> None:
    """The farthest point lies a semi-major axis away at the given bearing, the nearest a semi-minor axis."""
    outline = outline_deg(POSITION, ELLIPSE)[0]
    azimuth, _, distance_m = WGS84.inv(np.full(97, 8.0), np.full(97, 45.0), outline[:, 1], outline[:, 0])
    assert distance_m.max() == pytest.approx(40_000.0, rel=1e-6)
    assert distance_m.min() == pytest.approx(10_000.0, rel=1e-6)
    assert azimuth[distance_m.argmax()] % 180.0 == pytest.approx(30.0, abs=1e-6)
    assert outline[0] == pytest.approx(outline[-1])


def test_page_is_self_contained_and_names_the_receivers(tmp_path: Path) -> None:
    """The HTML page loads nothing from elsewhere, its SVG is well-formed, and the PNG is a PNG."""
    write_map(tmp_path, POSITION, POSITION + 0.1, ELLIPSE, 0.95)
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    svg = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314 - written by this test
    texts = {element.text for element in svg.iter() if element.tag.endswith("text")}
    assert {receiver.name for receiver in RECEIVERS} <= texts
    assert "<script" not in page
    assert 'src="http' not in page
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "95%" in page
