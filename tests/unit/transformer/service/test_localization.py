from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from transformer.answer import Estimate
from transformer.localization import Localization, join_reasons

if TYPE_CHECKING:
    from transformer.arms import Arm
    from transformer.described_model import DescribedModel


def test_reasons_are_joined_item_by_item() -> None:
    """The doubts of both steps stay with their item; another number of items is a fault of the program."""
    assert join_reasons((("a",), ()), (("b",), ("c",))) == (("a", "b"), ("c",))
    with pytest.raises(ValueError, match="argument 2"):
        join_reasons(((),), ((), ()))


def test_ellipses_follow_the_models_own_scale(described: DescribedModel, arm: Arm) -> None:
    """The level is turned into a radius by the contract's table, not by the Gaussian formula."""
    one, ones = np.array([100.0]), np.ones(1)
    estimate = Estimate(ones, ones, one, one / 2.0, ones, np.ones(1, np.float32), ((),))
    ellipses = Localization(estimate, ((),), (False,), arm, described).ellipses(0.9)
    np.testing.assert_allclose([ellipses.semi_major_m[0], ellipses.semi_minor_m[0]], [230.0, 115.0])
