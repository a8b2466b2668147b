from __future__ import annotations

import hashlib
import json

from reference.calibrate import EllipseScale
from reference.contract import contract_digest, contract_text

TABLE = (EllipseScale(0.5, 1.18), EllipseScale(0.95, 2.4))


def test_text_is_canonical() -> None:
    """Parsing and writing it again with sorted keys and no spaces gives the same bytes."""
    text = contract_text(TABLE)
    again = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text == again


def test_members_are_those_of_the_schema() -> None:
    """No member is missing or unknown to version 1 of the schema."""
    contract = json.loads(contract_text(TABLE))
    assert set(contract) == {
        "schema", "receivers", "sample_rate_hz", "samples", "full_scale_dbm", "features", "outputs",
        "ellipse_scale", "power_range_dbm", "region", "sigma_range_m",
    }  # fmt: skip
    assert set(contract["features"]) == {
        "input", "fft_size", "hop_size", "window", "band_scale", "bands", "frames", "floor_dbm", "mean", "std",
    }  # fmt: skip
    assert contract["schema"] == "heimdall.localization/1"
    assert contract["features"]["frames"] == 32
    assert contract["ellipse_scale"] == [{"confidence_level": 0.5, "k": 1.18}, {"confidence_level": 0.95, "k": 2.4}]


def test_region_holds_the_receivers() -> None:
    """The box of the contract is the simulator's: 30 km around all receivers."""
    contract = json.loads(contract_text(TABLE))
    region = contract["region"]
    for receiver in contract["receivers"]:
        assert region["south"] + 0.2 < receiver["latitude"] < region["north"] - 0.2
        assert region["west"] + 0.3 < receiver["longitude"] < region["east"] - 0.3


def test_digest_names_the_text() -> None:
    """The digest is the SHA-256 of the UTF-8 text, and other tables give other digests."""
    text = contract_text(TABLE)
    assert contract_digest(text) == "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert contract_digest(contract_text(())) != contract_digest(text)
