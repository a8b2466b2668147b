from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.estimates import LEVELS, LocalModel, concatenated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reference.simulate import Captures


def test_ellipses_use_the_contracts_table(model_path: Callable[[str], Path], drawn: Captures) -> None:
    """Axes grow with the level by k(p), and their product is k² times the root of the covariance's determinant."""
    estimates = LocalModel(model_path("reference")).estimate(drawn.first(5))
    areas = np.array([np.prod(estimates.ellipses[level][:, :2], axis=1) for level in LEVELS])
    assert (np.diff(areas, axis=0) > 0.0).all()
    k = np.sqrt(areas / np.sqrt(np.linalg.det(estimates.covariance_m2)))
    assert k == pytest.approx(np.repeat(k[:, :1], 5, axis=1), rel=1e-4)
    assert k[3, 0] == pytest.approx(2.43, abs=0.1)


def test_answers_do_not_depend_on_the_batch(model_path: Callable[[str], Path], drawn: Captures) -> None:
    """Parts of a batch, concatenated, equal the whole."""
    model = LocalModel(model_path("reference"))
    whole = model.estimate(drawn.first(6))
    parts = concatenated([model.estimate(drawn.first(3)), model.estimate(drawn.first(6))])
    assert parts.position_deg[3:] == pytest.approx(whole.position_deg, abs=1e-6)
    assert parts.ellipses[0.5].shape == (9, 3)
