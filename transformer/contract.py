"""The model's contract: what it was trained on and what its numbers mean, parsed once into frozen values.

What belongs here: the schema `heimdall.localization/1`, its checks, its digest, and the scale of the ellipse that it
tabulates. What does not: fetching it, or working on samples and answers by it (`iq`, `features`, `answer`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import numpy as np

from transformer.errors import BadContract, BadRequest
from transformer.json_members import Members, parse_object

SCHEMA = "heimdall.localization/1"
BandScale = Literal["linear", "signed_mel"]


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver; its place in `Contract.receivers` is its index on the receiver axis of every tensor."""

    name: str
    latitude: float
    longitude: float
    altitude_m: float


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How samples become the model's input tensor, FP32 [B, R, frames, bands].

    Attributes:
        input: Name of the model's input.
        fft_size: Samples of one frame; even.
        hop_size: Samples from the start of one frame to the start of the next.
        band_scale: Axis on which the edges of the bands are equispaced.
        bands: Number of bands over both signs of frequency.
        frames: Number of frames, 1 + (samples - fft_size) // hop_size.
        sample_rate_hz: Samples a second, I and Q together counting as one.
        floor_dbm: Power added to each band before the logarithm.
        mean: Of ln(power in mW) over the training set.
        std: Of ln(power in mW) over the training set.
    """

    input: str
    fft_size: int
    hop_size: int
    band_scale: BandScale
    bands: int
    frames: int
    sample_rate_hz: float
    floor_dbm: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class OutputNames:
    """Names of the model's outputs; `confidence_meaning` says of what the confidence is the probability."""

    position: str = "position"
    uncertainty: str = "uncertainty"
    confidence: str | None = "confidence"
    confidence_meaning: str = ""


@dataclass(frozen=True, slots=True)
class EllipseScale:
    """Mahalanobis radius k of the ellipse that holds the transmitter with a given probability.

    A bivariate Gaussian gives k = √(−2 ln(1−p)), because its squared Mahalanobis distance has the χ² distribution of
    two degrees of freedom. A trained model is never exactly Gaussian, so its contract may tabulate radii measured on
    captures of its own. Between two levels the ratio of table to formula is interpolated linearly in p; beyond the
    ends the end's ratio is kept. An empty table leaves the formula.

    Attributes:
        levels: Confidence levels in rising order, each inside (0, 1).
        radii: The radius k of each level, rising.
    """

    levels: tuple[float, ...] = ()
    radii: tuple[float, ...] = ()

    def k(self, confidence_level: float) -> float:
        """Radius k for a probability inside (0, 1); raises `BadRequest` outside."""
        if not 0.0 < confidence_level < 1.0:
            raise BadRequest(f"confidence_level: must lie between 0 and 1, both excluded, not {confidence_level}")
        return _radius(self.levels, self.radii, confidence_level)


@lru_cache(maxsize=256)  # two levels a request, nearly always the same ones
def _radius(levels: tuple[float, ...], radii: tuple[float, ...], confidence_level: float) -> float:
    gaussian = gaussian_radius(confidence_level)
    if not levels:
        return gaussian
    ratios = [radius / gaussian_radius(level) for level, radius in zip(levels, radii, strict=True)]
    return gaussian * float(np.interp(confidence_level, levels, ratios))


@dataclass(frozen=True, slots=True)
class Region:
    """Where the model was trained, in degrees. `west` above `east` means across the antimeridian (RFC 7946 §5.2)."""

    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval; the unit is in the name of the member that holds it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything that the transformer has to know of a model.

    Attributes:
        receivers: In the order of the receiver axis.
        sample_rate_hz: The rate at which captures must be sampled.
        samples: Samples that the model sees of each receiver.
        full_scale_dbm: Power of a sample of magnitude 1.
        features: Layout of the input tensor.
        outputs: Names of the model's outputs.
        ellipse_scale: From confidence level to Mahalanobis radius.
        digest: "sha256:" and the hexadecimal SHA-256 of the canonical JSON text.
        power_range_dbm: Mean power of a receiver in training, if known.
        region: Where the transmitters of the training were, if known.
        sigma_range_m: Standard deviations that the model can mean, if known.
    """

    receivers: tuple[Receiver, ...]
    sample_rate_hz: float
    samples: int
    full_scale_dbm: float
    features: FeatureLayout
    outputs: OutputNames
    ellipse_scale: EllipseScale
    digest: str
    power_range_dbm: Interval | None = None
    region: Region | None = None
    sigma_range_m: Interval | None = None


def gaussian_radius(confidence_level: float) -> float:
    """√(−2 ln(1−p)), the χ²₂ quantile's root; `log1p` keeps its digits where p is small."""
    return math.sqrt(-2.0 * math.log1p(-confidence_level))


def parse_contract(text: str | bytes) -> Contract:
    """Read a contract from its JSON text (UTF-8).

    Raises:
        BadContract: A member is missing, unknown, of the wrong type or contradicts another; its path is named.
    """
    document = parse_object(text)
    members = Members(document)
    members.text("schema", one_of=[SCHEMA])
    sample_rate_hz, samples = members.positive("sample_rate_hz"), members.count("samples")
    contract = Contract(
        receivers=_receivers(members),
        sample_rate_hz=sample_rate_hz,
        samples=samples,
        full_scale_dbm=members.number("full_scale_dbm", -200.0, 200.0),
        features=_features(members.object("features"), sample_rate_hz, samples),
        outputs=_outputs(members.object("outputs")) if "outputs" in members else OutputNames(),
        ellipse_scale=_ellipse_scale(members) if "ellipse_scale" in members else EllipseScale(),
        digest=_digest(document),
        power_range_dbm=Interval(*members.interval("power_range_dbm")) if "power_range_dbm" in members else None,
        region=_region(members.object("region")) if "region" in members else None,
        sigma_range_m=_sigma_range(members) if "sigma_range_m" in members else None,
    )
    members.close()
    return contract


def _digest(document: dict[str, object]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise BadContract("contract: holds a lone surrogate, which UTF-8 cannot express") from error


def _receivers(members: Members) -> tuple[Receiver, ...]:
    receivers = tuple(_receiver(item) for item in members.objects("receivers"))
    if not receivers:
        raise BadContract("receivers: must name at least one")
    if len({receiver.name for receiver in receivers}) < len(receivers):
        raise BadContract("receivers: two of them have the same name")
    return receivers


def _receiver(members: Members) -> Receiver:
    receiver = Receiver(
        name=members.text("name"),
        latitude=members.number("latitude", -90.0, 90.0),
        longitude=members.number("longitude", -180.0, 180.0),
        altitude_m=members.number("altitude_m"),
    )
    members.close()
    return receiver


def _features(members: Members, sample_rate_hz: float, samples: int) -> FeatureLayout:
    members.text("window", one_of=["hann_periodic"])
    layout = FeatureLayout(
        input=members.text("input"),
        fft_size=members.count("fft_size", 2),
        hop_size=members.count("hop_size"),
        band_scale=cast("BandScale", members.text("band_scale", one_of=["linear", "signed_mel"])),
        bands=members.count("bands"),
        frames=members.count("frames"),
        sample_rate_hz=sample_rate_hz,
        floor_dbm=members.number("floor_dbm", -400.0, 200.0),
        mean=members.number("mean"),
        std=members.positive("std"),
    )
    members.close()
    if layout.fft_size % 2:
        raise BadContract("features.fft_size: must be even")
    if samples < layout.fft_size:
        raise BadContract(f"samples: {samples} do not fill one frame of features.fft_size {layout.fft_size}")
    frames = 1 + (samples - layout.fft_size) // layout.hop_size
    if layout.frames != frames:
        raise BadContract(f"features.frames: {samples} samples make {frames} frames, not {layout.frames}")
    return layout


def _outputs(members: Members) -> OutputNames:
    default = OutputNames()
    position, uncertainty, confidence, meaning = default.position, default.uncertainty, None, ""
    if "position" in members:
        position = _output_name(members.object("position"), unit="degree")
    if "uncertainty" in members:
        uncertainty = _output_name(members.object("uncertainty"), unit="metre")
    if "confidence" in members:
        output = members.object("confidence")
        confidence, meaning = output.text("name"), output.text("meaning")
        output.close()
    members.close()
    return OutputNames(position, uncertainty, confidence, meaning)


def _output_name(members: Members, *, unit: str) -> str:
    members.text("unit", one_of=[unit])
    name = members.text("name")
    members.close()
    return name


def _ellipse_scale(members: Members) -> EllipseScale:
    levels, radii = [0.0], [0.0]
    for row in members.objects("ellipse_scale"):
        level, radius = row.number("confidence_level", 0.0, math.nextafter(1.0, 0.0)), row.number("k")
        row.close()
        if level <= levels[-1] or radius <= radii[-1]:
            raise BadContract(f"{row.path('confidence_level')}: level and k must be above 0 and rise from row to row")
        levels.append(level)
        radii.append(radius)
    return EllipseScale(tuple(levels[1:]), tuple(radii[1:]))


def _region(members: Members) -> Region:
    region = Region(
        south=members.number("south", -90.0, 90.0),
        west=members.number("west", -180.0, 180.0),
        north=members.number("north", -90.0, 90.0),
        east=members.number("east", -180.0, 180.0),
    )
    members.close()
    if region.south >= region.north:
        raise BadContract("region.south: must be below region.north")
    return region


def _sigma_range(members: Members) -> Interval:
    low, high = members.interval("sigma_range_m")
    if low <= 0.0:
        raise BadContract(f"sigma_range_m[0]: must be above 0, not {low:g}")
    return Interval(low, high)
