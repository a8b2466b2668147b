"""The text with which the model describes itself to those who serve it.

What belongs here: the contract's JSON and its digest. What does not: reading contracts; the service does that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from reference.features import LAYOUT
from reference.network import CONFIDENT_M
from reference.simulate import FRAME, RADIO

if TYPE_CHECKING:
    from reference.calibrate import EllipseScale

SCHEMA = "heimdall.localization/1"
METADATA_KEY = "heimdall.contract"

FEATURE_MEAN, FEATURE_STD = -32.0, 2.5
"""ln(mW) of a band over simulated captures, rounded; fixed, so that a feature depends on its own samples alone."""

POWER_RANGE_DBM = (-124.0, -30.0)
"""From below the receivers' noise (−121 dBm) to a strong transmitter within the path loss model's 1 km."""

SIGMA_RANGE_M = (1.0, 200_000.0)
"""Sigmas beyond the simulated box's size say nothing."""


def contract_text(ellipse_scale: tuple[EllipseScale, ...]) -> str:
    """The canonical JSON text of the contract: keys sorted, no spaces, no NaN."""
    members: dict[str, Any] = {
        "schema": SCHEMA,
        "receivers": [dataclasses.asdict(receiver) for receiver in FRAME.receivers],
        "sample_rate_hz": LAYOUT.sample_rate_hz,
        "samples": LAYOUT.samples,
        "full_scale_dbm": LAYOUT.full_scale_dbm,
        "features": _features(),
        "outputs": {
            "position": {"name": "position", "unit": "degree"},
            "uncertainty": {"name": "uncertainty", "unit": "metre"},
            "confidence": {"name": "confidence", "meaning": f"P(error < {CONFIDENT_M / 1e3:.0f} km)"},
        },
        "ellipse_scale": [dataclasses.asdict(row) for row in ellipse_scale],
        "power_range_dbm": list(POWER_RANGE_DBM),
        "region": _region(),
        "sigma_range_m": list(SIGMA_RANGE_M),
    }
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def contract_digest(text: str) -> str:
    """The name by which the two sides of a connection agree on a contract."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _features() -> dict[str, Any]:
    return {
        "input": "log_mel",
        "fft_size": LAYOUT.fft_size,
        "hop_size": LAYOUT.hop_size,
        "window": "hann_periodic",
        "band_scale": "linear",
        "bands": LAYOUT.bands,
        "frames": LAYOUT.frames,
        "floor_dbm": LAYOUT.floor_dbm,
        "mean": FEATURE_MEAN,
        "std": FEATURE_STD,
    }


def _region() -> dict[str, float]:
    box = FRAME.box(RADIO.margin_m)
    corners = FRAME.to_degrees(
        np.array([(east, north) for east in (box.west_m, box.east_m) for north in (box.south_m, box.north_m)])
    )
    (south, west), (north, east) = corners.min(axis=0), corners.max(axis=0)
    sides = {"south": south, "west": west, "north": north, "east": east}
    return {side: round(float(degrees), 4) for side, degrees in sides.items()}
