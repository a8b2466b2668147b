from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from transformer.contract import EllipseScale, parse_contract
from transformer.errors import BadContract, BadRequest

if TYPE_CHECKING:
    from tests.unit.transformer.conftest import Contracts
    from transformer.contract import Contract

LEVELS = st.floats(1e-9, 1 - 1e-9)


def test_members_arrive_typed(contract: Contract) -> None:
    """Every member of the document is found again under its name in the parsed contract."""
    assert contract.receivers[2].name == "Torino"
    assert (contract.samples, contract.sample_rate_hz, contract.full_scale_dbm) == (4480, 48000.0, -50.0)
    assert (contract.features.bands, contract.features.frames, contract.features.std) == (128, 32, 4.5)
    assert contract.outputs.confidence_meaning == "P(error < 20 km)"
    assert contract.power_range_dbm is not None
    assert contract.power_range_dbm.low == -125.0
    assert contract.region is not None
    assert contract.region.east == 9.8
    assert contract.sigma_range_m is not None
    assert contract.sigma_range_m.high == 200000.0


def test_optional_members_may_be_absent(contracts: Contracts) -> None:
    """Without the optional members there are no limits, the usual output names, and the Gaussian scale."""
    bare = contracts.make(outputs=..., ellipse_scale=..., power_range_dbm=..., region=..., sigma_range_m=...)
    assert (bare.power_range_dbm, bare.region, bare.sigma_range_m) == (None, None, None)
    assert (bare.outputs.position, bare.outputs.uncertainty, bare.outputs.confidence) == (
        "position",
        "uncertainty",
        "confidence",
    )
    assert bare.ellipse_scale.k(0.95) == pytest.approx(2.4477, abs=5e-5)


def test_outputs_may_leave_out_members(contracts: Contracts) -> None:
    """Outputs that are described keep their names; a model described without a confidence has none."""
    outputs = contracts.make(outputs={"position": {"name": "where", "unit": "degree"}}).outputs
    assert (outputs.position, outputs.uncertainty, outputs.confidence) == ("where", "uncertainty", None)
    assert contracts.make(outputs={}).outputs.position == "position"


def test_digest_is_that_of_the_canonical_text(contracts: Contracts) -> None:
    """Order of members and white space do not change the digest; a value does; non-ASCII text stays UTF-8."""
    document = contracts.document(features__input="log_mél")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    shuffled = json.dumps(dict(reversed(document.items())), indent=3).encode()
    assert parse_contract(shuffled).digest == "sha256:" + hashlib.sha256(canonical).hexdigest()
    assert parse_contract(shuffled).digest != contracts.make().digest


BROKEN = {
    "schema": {"schema": "heimdall.localization/2"},
    "receivers": {"receivers": []},
    "receivers: two": {"receivers": [{"name": "A", "latitude": 1, "longitude": 2, "altitude_m": 3}] * 2},
    r"receivers\[0\]\.latitude": {"receivers": [{"name": "A", "latitude": 91, "longitude": 2, "altitude_m": 3}]},
    r"receivers\[0\]: must be an object": {"receivers": ["A"]},
    "receivers: must be an array": {"receivers": {}},
    "samples: missing": {"samples": ...},
    "samples: must be a whole": {"samples": 4480.5},
    "samples: 100": {"samples": 100},
    "sample_rate_hz": {"sample_rate_hz": 0},
    "full_scale_dbm": {"full_scale_dbm": 1000.0},
    r"features\.bands": {"features__bands": "128"},
    r"features\.fft_size": {"features__fft_size": 511, "features__frames": 32},
    r"features\.frames": {"features__frames": 33},
    r"features\.window": {"features__window": "hamming"},
    r"features\.band_scale": {"features__band_scale": "mel"},
    r"features\.std": {"features__std": 0},
    r"features\.input": {"features__input": ""},
    r"features\.typo: unknown": {"features__typo": 1},
    "typo: unknown": {"typo": 1},
    r"outputs\.position\.unit": {"outputs__position__unit": "metre"},
    r"outputs\.confidence\.meaning": {"outputs__confidence__meaning": ...},
    r"ellipse_scale\[0\]\.confidence_level": {"ellipse_scale": [{"confidence_level": 1.0, "k": 1.0}]},
    r"ellipse_scale\[1\]\.confidence_level": {
        "ellipse_scale": [{"confidence_level": 0.5, "k": 1.0}, {"confidence_level": 0.6, "k": 0.9}]
    },
    "power_range_dbm": {"power_range_dbm": [-50, -120]},
    r"region\.south": {"region__south": 47.0},
    r"sigma_range_m\[0\]": {"sigma_range_m": [0, 5]},
}


@pytest.mark.parametrize(("path", "changes"), BROKEN.items(), ids=BROKEN)
def test_faults_are_named_by_path(path: str, changes: dict[str, object], contracts: Contracts) -> None:
    """A missing, unknown, badly typed or contradicting member is refused with its path."""
    with pytest.raises(BadContract, match=path):
        contracts.make(**changes)


def test_lone_surrogates_are_refused(contracts: Contracts) -> None:
    """A text that UTF-8 cannot express has no digest, so it is no contract."""
    with pytest.raises(BadContract, match="surrogate"):
        contracts.make(features__input="\ud800")


@given(LEVELS)
def test_gaussian_scale_is_the_chi_squared_quantile(level: float) -> None:
    """Without a table, k² is the quantile of χ² with two degrees of freedom."""
    assert EllipseScale().k(level) ** 2 == pytest.approx(chi2.ppf(level, 2), rel=1e-9)


@pytest.mark.parametrize(
    ("level", "radius"), [(0.50, 1.1774), (0.68, 1.5096), (0.90, 2.1460), (0.95, 2.4477), (0.99, 3.0349)]
)
def test_gaussian_scale_against_published_radii(level: float, radius: float) -> None:
    """The usual levels have the radii of the tables; the one-dimensional factors (1.960 for 95 %) would fail."""
    assert EllipseScale().k(level) == pytest.approx(radius, abs=5e-5)
    one_dimensional = {0.50: 0.6745, 0.68: 0.9945, 0.90: 1.6449, 0.95: 1.9600, 0.99: 2.5758}[level]
    assert abs(one_dimensional - radius) > 0.4
    assert 1.0 - math.exp(-(one_dimensional**2) / 2.0) < level - 0.02


@given(LEVELS, LEVELS)
def test_scale_rises_with_the_level(first: float, second: float) -> None:
    """A larger probability never has a smaller ellipse."""
    scale = EllipseScale((0.5, 0.9, 0.99), (1.18, 2.3, 3.1))
    assert (scale.k(first) <= scale.k(second)) == (first <= second) or first == pytest.approx(second)


def test_table_interpolates_the_ratio_to_the_gaussian() -> None:
    """Table levels are met exactly, the ratio is linear between them and constant beyond the ends."""
    table, gaussian = EllipseScale((0.5, 0.9), (1.2, 2.4)), EllipseScale()
    low, high = 1.2 / gaussian.k(0.5), 2.4 / gaussian.k(0.9)
    assert (table.k(0.5), table.k(0.9)) == (pytest.approx(1.2), pytest.approx(2.4))
    assert table.k(0.7) / gaussian.k(0.7) == pytest.approx((low + high) / 2)
    assert table.k(0.1) / gaussian.k(0.1) == pytest.approx(low)
    assert table.k(0.999) / gaussian.k(0.999) == pytest.approx(high)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_levels_outside_of_a_probability_are_refused(level: float) -> None:
    """A confidence level of 0, 1, per cent or NaN is the client's mistake."""
    with pytest.raises(BadRequest, match="confidence_level"):
        EllipseScale().k(level)
