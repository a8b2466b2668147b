from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from transformer.answer import Estimate
from transformer.localization import Localization
from transformer.presentation import OUTPUTS, metadata, respond
from transformer.query import OUTPUTS as NAMES
from transformer.query import Query

if TYPE_CHECKING:
    from transformer.arms import Arm
    from transformer.described_model import DescribedModel

ESTIMATE = Estimate(
    latitude=np.array([45.0, 46.0]),
    longitude=np.array([8.0, 9.0]),
    sigma_x_m=np.array([3000.0, 100.0]),
    sigma_y_m=np.array([1000.0, 200.0]),
    theta_rad=np.array([0.0, 0.0]),
    confidence=np.array([0.25, 0.5], np.float32),
    degraded=((), ("outside_region",)),
)


@pytest.fixture
def localization(described: DescribedModel, arm: Arm) -> Localization:
    """Two answers, one of them doubtful."""
    return Localization(ESTIMATE, ((), ("power", "outside_region")), (False, True), arm, described)


def test_every_output(localization: Localization, described: DescribedModel) -> None:
    """Names, datatypes and shapes are those of the metadata; values are the estimate's."""
    response = respond("m", "7", Query(np.zeros(1), outputs=NAMES, confidence_level=0.5), localization)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    for tensor, promised in zip(response.outputs, OUTPUTS, strict=True):
        assert (tensor.name, tensor.datatype) == (promised.name, promised.datatype)
        assert tensor.shape == (2, *promised.shape[1:])
    assert response.output("position").array.tolist() == [[45.0, 8.0], [46.0, 9.0]]
    assert response.output("covariance").array[0].tolist() == [[9e6, 0.0], [0.0, 1e6]]
    k = described.contract.ellipse_scale.k(0.5)
    np.testing.assert_allclose(
        response.output("ellipse").array, [[3000 * k, 1000 * k, 90.0], [200 * k, 100 * k, 0.0]], rtol=1e-12
    )
    feature = orjson.loads(response.output("geojson").array[1])
    assert feature["geometry"]["type"] == "Polygon"


def test_outputs_in_the_order_asked_for(localization: Localization) -> None:
    """Exactly the outputs asked for, in that order."""
    response = respond("m", None, Query(np.zeros(1), outputs=("confidence", "position")), localization)
    assert [tensor.name for tensor in response.outputs] == ["confidence", "position"]


def test_parameters(localization: Localization) -> None:
    """Who answered is always told; doubts and the session only where there are any. All are scalars."""
    parameters = respond("m", None, Query(np.zeros(1), session_id="s"), localization).parameters
    assert (parameters["arm"], parameters["model_digest"], parameters["session_id"]) == ("stable", "sha256:3", "s")
    assert parameters["contract_digest"] == localization.model.contract.digest
    assert parameters["cached"] == "[false,true]"
    assert parameters["degraded"] == '[[],["power","outside_region"]]'
    plain = replace(localization, degraded=((), ()))
    assert {"degraded", "session_id"}.isdisjoint(respond("m", None, Query(np.zeros(1)), plain).parameters)


def test_metadata(described: DescribedModel) -> None:
    """The client learns the number of receivers, the predictor's version and the digests."""
    found = metadata("localization", described)
    assert (found.name, found.versions) == ("localization", ("3",))
    assert found.inputs[0].shape == (-1, 7, -1, 2)
    assert found.parameters["contract_digest"] == described.contract.digest
