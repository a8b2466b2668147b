"""Localizations in the client's V2 form: tensors, parameters and metadata.

What belongs here: names, datatypes and shapes of the client's contract. What does not: REST (`rest_messages`), and
mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson

from oip.messages import InferResponse, ModelMetadata, Tensor, TensorMetadata
from transformer import geojson

if TYPE_CHECKING:
    from collections.abc import Callable

    from oip.messages import Array, Parameter
    from transformer.described_model import DescribedModel
    from transformer.ellipse import Ellipses
    from transformer.localization import Localization
    from transformer.query import Query

OUTPUTS = (
    TensorMetadata("position", "FP64", (-1, 2)),
    TensorMetadata("covariance", "FP64", (-1, 2, 2)),
    TensorMetadata("ellipse", "FP64", (-1, 3)),
    TensorMetadata("confidence", "FP32", (-1,)),
    TensorMetadata("geojson", "BYTES", (-1,)),
)
"""The outputs of the client's contract; `geojson` is answered only when asked for."""


def respond(model_name: str, request_id: str | None, query: Query, localization: Localization) -> InferResponse:
    """The V2 response: exactly the outputs asked for, in the order asked for."""
    ellipses = localization.ellipses(query.confidence_level)
    return InferResponse(
        model_name=model_name,
        model_version=localization.model.version,
        id=request_id,
        outputs=tuple(Tensor(name, _VALUES[name](query, localization, ellipses)) for name in query.outputs),
        parameters=_parameters(query, localization),
    )


def metadata(model_name: str, model: DescribedModel) -> ModelMetadata:
    """The transformer's model as a client sees it: IQ in, positions out; version and digests are the predictor's."""
    contract = model.contract
    shape = (-1, len(contract.receivers), -1, 2)
    return ModelMetadata(
        name=model_name,
        platform="heimdall_transformer",
        versions=(model.version,),
        inputs=(TensorMetadata("iq", "FP32", shape),),
        outputs=OUTPUTS,
        parameters={"model_digest": model.model_digest, "contract_digest": contract.digest},
    )


def _position(_query: Query, localization: Localization, _ellipses: Ellipses) -> Array:
    return localization.estimate.position


def _covariance(_query: Query, localization: Localization, _ellipses: Ellipses) -> Array:
    return localization.estimate.covariance_m2


def _ellipse(_query: Query, _localization: Localization, ellipses: Ellipses) -> Array:
    return np.stack([ellipses.semi_major_m, ellipses.semi_minor_m, ellipses.bearing_deg], axis=-1)


def _confidence(_query: Query, localization: Localization, _ellipses: Ellipses) -> Array:
    return localization.estimate.confidence


def _geojson(query: Query, localization: Localization, ellipses: Ellipses) -> Array:
    estimate = localization.estimate
    texts = geojson.features(estimate.latitude, estimate.longitude, ellipses, query.confidence_level)
    return np.array(texts, dtype=object)


_VALUES: dict[str, Callable[[Query, Localization, Ellipses], Array]] = {
    "position": _position,
    "covariance": _covariance,
    "ellipse": _ellipse,
    "confidence": _confidence,
    "geojson": _geojson,
}


def _parameters(query: Query, localization: Localization) -> dict[str, Parameter]:
    """Who answered, and what is doubtful. The protocol knows scalars only, so lists travel as JSON text."""
    parameters: dict[str, Parameter] = {
        "model_digest": localization.model.model_digest,
        "contract_digest": localization.model.contract.digest,
        "arm": localization.arm.name,
        "cached": orjson.dumps(localization.cached).decode(),
    }
    if any(localization.degraded):
        parameters["degraded"] = orjson.dumps(localization.degraded).decode()
    if query.session_id is not None:
        parameters["session_id"] = query.session_id
    return parameters
