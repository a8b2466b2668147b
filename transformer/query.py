"""What a client asks for, parsed once from a V2 request.

What belongs here: the names, types and defaults of the transformer's own tensors and parameters. What does not: the
samples' meaning (`iq`) and the REST form of the same question (`rest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Array, InferRequest, Parameter

DEFAULT_CONFIDENCE_LEVEL = 0.95
"""Probability that the answered ellipse holds the transmitter, unless the client says otherwise."""

OUTPUTS = ("position", "covariance", "ellipse", "confidence", "geojson")
"""Every output that can be asked for; all but `geojson` are answered unasked."""

DEFAULT_OUTPUTS = OUTPUTS[:4]
PARAMETERS = ("confidence_level", "cache", "session_id", "full_scale_dbm")
MAX_SESSION_ID_LENGTH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One request for a batch of positions.

    Attributes:
        iq: Samples as sent, FP32, INT16, INT8 or UINT8, [B,R,N,2] (shorter forms: see `iq.parse_samples`).
        outputs: Names from `OUTPUTS`, in the order wanted.
        confidence_level: Probability that the ellipse holds the transmitter, in (0, 1).
        cache: Whether a stored answer may be used and this one stored.
        session_id: The client's session; makes the arm sticky.
        full_scale_dbm: Power of a full-scale sample in dBm; None: as the contract says.
    """

    iq: Array
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    confidence_level: float = DEFAULT_CONFIDENCE_LEVEL
    cache: bool = True
    session_id: str | None = None
    full_scale_dbm: float | None = None


def parse_query(request: InferRequest) -> Query:
    """Read a V2 request; raises `BadRequest` naming the field that is wrong."""
    extra = [tensor.name for tensor in request.inputs if tensor.name != "iq"]
    if extra:
        raise BadRequest(f"inputs: there is no input '{extra[0]}'; the only one is 'iq'")
    return make_query(
        request.input("iq").array,
        request.parameters,
        outputs=tuple(output.name for output in request.outputs) or DEFAULT_OUTPUTS,
    )


def make_query(iq: Array, parameters: Mapping[str, Parameter], outputs: tuple[str, ...] = DEFAULT_OUTPUTS) -> Query:
    """Check names, types and ranges of what goes with the samples; raises `BadRequest` naming the parameter."""
    for name in parameters:
        if name not in PARAMETERS:
            raise BadRequest(f"parameters.{name}: unknown; known are {', '.join(PARAMETERS)}")
    for name in outputs:
        if name not in OUTPUTS:
            raise BadRequest(f"outputs: there is no output '{name}'; there are {', '.join(OUTPUTS)}")
    return Query(
        iq=iq,
        outputs=outputs,
        confidence_level=_confidence_level(parameters.get("confidence_level", DEFAULT_CONFIDENCE_LEVEL)),
        cache=_flag("cache", parameters.get("cache", True)),
        session_id=_session_id(parameters.get("session_id")),
        full_scale_dbm=_full_scale_dbm(parameters.get("full_scale_dbm")),
    )


def _confidence_level(value: Parameter) -> float:
    level = _number("confidence_level", value)
    if not 0.0 < level < 1.0:
        raise BadRequest(f"parameters.confidence_level: {level:g} is not between 0 and 1, both excluded")
    return level


def _full_scale_dbm(value: Parameter | None) -> float | None:
    if value is None:
        return None
    power_dbm = _number("full_scale_dbm", value)
    # Beyond these no receiver exists, and the powers derived from them would leave the range of FP32.
    if not -200.0 <= power_dbm <= 100.0:  # noqa: PLR2004 - the comment above is their name
        raise BadRequest(f"parameters.full_scale_dbm: {power_dbm:g} dBm is outside -200 to 100 dBm")
    return power_dbm


def _session_id(value: Parameter | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SESSION_ID_LENGTH:
        raise BadRequest(f"parameters.session_id: must be a string of 1 to {MAX_SESSION_ID_LENGTH} characters")
    return value


def _flag(name: str, value: Parameter) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"parameters.{name}: must be true or false")
    return value


def _number(name: str, value: Parameter) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"parameters.{name}: must be a number")
    try:
        return float(value)
    except OverflowError as error:  # an integer beyond FP64
        raise BadRequest(f"parameters.{name}: is too large") from error
