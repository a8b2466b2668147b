from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from reference.calibrate import Calibration, EllipseScale
from reference.contract import FEATURE_MEAN, FEATURE_STD, METADATA_KEY, contract_text
from reference.export import INPUT, Model, export
from reference.features import band_powers_mw, log_mel
from reference.metrics import covariances
from reference.network import gaussian, sigmoid
from reference.pooling import selection
from reference.simulate import FRAME, captures
from reference.train import Training, train

if TYPE_CHECKING:
    from reference.arrays import F32

CALIBRATION = Calibration(1.25, (EllipseScale(0.5, 1.2), EllipseScale(0.95, 2.5)))
DRAWN = captures(8, 12)


@pytest.fixture(scope="module")
def model() -> Model:
    """A network of a second's training."""
    return Model(train(Training(seed=3, windows=400, steps=60, batch=64, width=16)), CALIBRATION)


def run(model: Model, features: F32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]  # three dtypes
    """The exported graph's three outputs."""
    session = onnxruntime.InferenceSession(export(model).SerializeToString())
    position, uncertainty, confidence = session.run(["position", "uncertainty", "confidence"], {INPUT: features})
    return position, uncertainty, confidence


def test_graph_equals_the_network(model: Model) -> None:
    """Degrees, covariance and confidence out of ONNX Runtime are those of the numpy network and the projection."""
    iq = DRAWN.complex_iq()
    position, uncertainty, confidence = run(model, log_mel(iq, FEATURE_MEAN, FEATURE_STD))
    powers = (band_powers_mw(iq).mean(axis=-2) @ selection()).astype(np.float32)
    outputs = model.trained.outputs(powers)
    mean_m, covariance_m2 = gaussian(outputs)
    assert position == pytest.approx(FRAME.to_degrees(mean_m), abs=1e-4)
    assert confidence[:, 0] == pytest.approx(sigmoid(outputs[:, 5]), abs=1e-4)
    expected = covariance_m2 * CALIBRATION.sigma_factor**2
    found = covariances(uncertainty.astype(np.float64))
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_types_and_shapes(model: Model) -> None:
    """Position FP64 [B,2], uncertainty FP32 [B,3], confidence FP32 [B,1]; the major axis comes first."""
    position, uncertainty, confidence = run(model, np.zeros((3, 7, 32, 128), dtype=np.float32))
    assert (position.shape, position.dtype) == ((3, 2), np.float64)
    assert (uncertainty.shape, uncertainty.dtype) == ((3, 3), np.float32)
    assert (confidence.shape, confidence.dtype) == ((3, 1), np.float32)
    assert (uncertainty[:, 0] >= uncertainty[:, 1]).all()


def test_metadata_carry_the_contract(model: Model) -> None:
    """Whoever loads the file can read the contract from it, table included."""
    session = onnxruntime.InferenceSession(export(model).SerializeToString())
    text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    assert text == contract_text(CALIBRATION.ellipse_scale)
    assert json.loads(text)["ellipse_scale"][1] == {"confidence_level": 0.95, "k": 2.5}


@pytest.mark.parametrize(
    ("a", "b", "c", "theta"),
    [
        (0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0, np.pi / 2.0),
        (0.0, 0.5, 0.0, None),
        (0.3, -2.0, 0.1, None),
        (2.0, 1e-6, 2.0, None),
    ],
    ids=["along east", "along north", "falling", "rising", "almost round"],
)
def test_axes_for_any_orientation(model: Model, a: float, b: float, c: float, theta: float | None) -> None:
    """The arc tangent without quadrants gives the right axis everywhere, the guarded cases b = 0 included."""
    weights = model.trained.network.weights
    kept = [weight.copy() for weight in weights[4:]]
    try:
        weights[4][...] = 0.0
        weights[5][...] = (0.0, 0.0, a, b, c, 0.0)
        _, uncertainty, _ = run(model, np.zeros((1, 7, 32, 128), dtype=np.float32))
        _, expected = gaussian(weights[5][None, :])
    finally:
        for weight, value in zip(weights[4:], kept, strict=True):
            weight[...] = value
    scaled = expected[0] * CALIBRATION.sigma_factor**2
    assert np.abs(covariances(uncertainty.astype(np.float64))[0] - scaled).max() < 1e-4 * np.abs(scaled).max()
    if theta is not None:
        assert abs(uncertainty[0, 2]) == pytest.approx(theta, abs=1e-3)
