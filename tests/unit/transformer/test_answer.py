from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from transformer.answer import parse_answer
from transformer.errors import InvalidModelOutput

if TYPE_CHECKING:
    from tests.unit.transformer.conftest import Contracts
    from transformer.contract import Contract

Array = np.ndarray[Any, np.dtype[Any]]


def f32(*rows: object) -> Array:
    """A tensor as the model answers it."""
    return np.array(rows, np.float32)


def test_a_good_answer(contract: Contract) -> None:
    """Outputs become degrees, metres and radians mod π in double precision, in the model's order."""
    estimate = parse_answer(
        f32([45.0, 7.5], [44.5, 8.5]), f32([300, 100, -0.5], [50, 80, 4]), f32([0.25], [1]), contract
    )
    np.testing.assert_array_equal(estimate.position, [[45.0, 7.5], [44.5, 8.5]])
    np.testing.assert_allclose(estimate.theta_rad, [math.pi - 0.5, 4.0 - math.pi])
    np.testing.assert_array_equal(estimate.confidence, f32(0.25, 1.0))
    assert estimate.degraded == ((), ())
    cos, sin = math.cos(-0.5), math.sin(-0.5)
    turned = np.array([[cos, -sin], [sin, cos]])
    np.testing.assert_allclose(estimate.covariance_m2[0], turned @ np.diag([9e4, 1e4]) @ turned.T, rtol=1e-9)
    axes = estimate.ellipses(2.0)
    np.testing.assert_allclose(axes.semi_major_m, [600.0, 160.0])
    np.testing.assert_allclose(axes.semi_minor_m, [200.0, 100.0])
    np.testing.assert_allclose(axes.bearing_deg[0], 90.0 + math.degrees(0.5))


def test_missing_parts_have_defaults(contract: Contract) -> None:
    """Two columns of uncertainty mean theta 0, no confidence output means 1, and [B] is as good as [B, 1]."""
    estimate = parse_answer(f32([45.0, 7.5]), f32([300, 100]), None, contract)
    assert estimate.theta_rad[0] == 0.0
    assert estimate.confidence[0] == 1.0
    assert parse_answer(f32([45.0, 7.5]), f32([300, 100]), f32(0.5), contract).confidence[0] == 0.5


GOOD: dict[str, Array] = {"position": f32([45, 7.5]), "uncertainty": f32([300, 100, 0]), "confidence": f32([0.5])}
BROKEN = [
    ("position", f32([np.nan, 7.5]), "not finite"),
    ("position", f32([91, 7.5]), "no place"),
    ("position", f32([45, -180.5]), "no place"),
    ("position", f32([45, 7.5, 1]), r"\[B,2\]"),
    ("position", f32(45, 7.5), r"\[B,2\]"),
    ("position", np.float32(45.0) * np.ones(()), r"\[B,2\]"),
    ("position", np.empty((0, 2), np.float32), r"\[B,2\]"),
    ("position", np.array([[45, 7]]), "floating point"),
    ("uncertainty", f32([np.inf, 100, 0]), "not finite"),
    ("uncertainty", f32([300, 100, np.nan]), "not finite"),
    ("uncertainty", f32([300, 0, 0]), "not above 0"),
    ("uncertainty", f32([-300, 100, 0]), "not above 0"),
    ("uncertainty", f32([300, 3e7, 0]), "larger than the Earth"),
    ("uncertainty", f32([300, 100, 0], [300, 100, 0]), r"\[B,2\] or \[B,3\]"),
    ("confidence", f32([1.001]), "outside"),
    ("confidence", f32([-0.001]), "outside"),
    ("confidence", f32([np.nan]), "not finite"),
    ("confidence", f32([0.5, 0.5]), r"\[B,1\]"),
]


@pytest.mark.parametrize(("name", "array", "why"), BROKEN)
def test_nonsense_names_the_output(name: str, array: Array, why: str, contract: Contract) -> None:
    """An answer that cannot be true is refused with the output's name and the reason."""
    outputs = {**GOOD, name: array}
    with pytest.raises(InvalidModelOutput, match=rf"^{name}: .*{why}"):
        parse_answer(outputs["position"], outputs["uncertainty"], outputs["confidence"], contract)


def test_doubts_are_reported_per_item(contract: Contract) -> None:
    """Sigmas beyond the model's range and positions outside its region mark their item; too small ones are lifted."""
    estimate = parse_answer(
        f32([45, 7.5], [45, 7.5], [48, 7.5], [45, 10]),
        f32([0.5, 100, 0], [300, 3e5, 0], [300, 100, 0], [300, 100, 0]),
        None,
        contract,
    )
    assert estimate.degraded == (("sigma_floor",), ("sigma_cap",), ("outside_region",), ("outside_region",))
    assert (estimate.sigma_x_m[0], estimate.sigma_y_m[1]) == (1.0, 3e5)


def test_without_limits_nothing_is_doubtful(contracts: Contracts) -> None:
    """A contract without region and range marks nothing and lifts nothing."""
    contract = contracts.make(region=..., sigma_range_m=...)
    estimate = parse_answer(f32([-80, 170]), f32([0.01, 3e6, 0]), None, contract)
    assert estimate.degraded == ((),)
    assert estimate.sigma_x_m[0] == pytest.approx(0.01)


def test_a_region_may_cross_the_antimeridian(contracts: Contracts) -> None:
    """West above east is a box across 180°, as in RFC 7946."""
    contract = contracts.make(region={"south": -20.0, "west": 170.0, "north": 10.0, "east": -170.0})
    places = f32([0, 175], [0, -175], [0, 0], [15, 175])
    estimate = parse_answer(places, np.tile(f32([300, 100, 0]), (4, 1)), None, contract)
    assert [bool(reasons) for reasons in estimate.degraded] == [False, False, True, True]
