"""What several test modules of the reference room need: prepared models, and captures with their in-band powers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.features import band_powers_mw
from reference.pooling import selection
from reference.simulate import captures
from reference.variants import NAMES, prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reference.arrays import F32
    from reference.simulate import Captures


@pytest.fixture(scope="session")
def model_path(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """The file of a variant, made once and kept under build/."""
    directory = pytestconfig.rootpath / "build" / "reference"

    def path(name: str) -> Path:
        assert name in NAMES
        return prepare(directory, (name,))[name] / "model.onnx"

    return path


@pytest.fixture(scope="session")
def drawn() -> Captures:
    """Simulated captures with truth: 600 cases, enough for every statistical test of this folder."""
    return captures(5, 600)


@pytest.fixture(scope="session")
def inband_mw(drawn: Captures) -> F32:
    """In-band powers [K,R] of those captures as the features measure them."""
    weights = selection()[:, 0].astype(np.float32)
    blocks = np.array_split(drawn.complex_iq(), 20)
    return np.concatenate([band_powers_mw(block).mean(axis=-2) @ weights for block in blocks])
