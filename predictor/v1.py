"""The body of the older V1 protocol, for models with one input: rows in, rows out.

What belongs here: `{"instances": […]}` ⇄ tensors (TensorFlow Serving's row format, which KServe's V1 adopts). What does
not: anything that V2 can say better; there are no parameters and no binary data here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from oip.messages import DTYPES, Tensor
from predictor.errors import InferenceFailed, SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Array, TensorMetadata

_ACCEPTED_KINDS: Mapping[str, str] = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "O": "U"}
"""Kind of the model's dtype → kinds that the JSON values may have: numbers never come from text or from booleans."""


def decode(payload: object, inputs: Sequence[TensorMetadata]) -> Tensor:
    """The rows of a V1 request as the model's only input.

    Raises:
        SignatureError: The model has several inputs, or the rows are not there, ragged, or not of the input's type.
    """
    if len(inputs) != 1:
        raise SignatureError("V1 serves models with one input only; use /v2")
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        raise SignatureError("instances: missing, or not a list")
    dtype = DTYPES[inputs[0].datatype]
    values = _rectangular(payload["instances"])
    if values.size and values.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise SignatureError(f"instances: not all values are {inputs[0].datatype}")
    return Tensor(inputs[0].name, _converted(values, dtype, inputs[0].datatype))


def _rectangular(rows: list[object]) -> Array:
    try:
        return np.array(rows)
    except (ValueError, OverflowError) as error:
        raise SignatureError("instances: the rows differ in shape") from error


def _converted(values: Array, dtype: np.dtype[np.generic], datatype: str) -> Array:
    if dtype.kind == "O":
        text = np.empty(values.size, object)
        text[:] = [str(item).encode() for item in values.flat]
        return text.reshape(values.shape)
    if dtype.kind in "iu" and values.size and not _within(values, np.iinfo(dtype.name)):
        raise SignatureError(f"instances: a value is out of the range of {datatype}")
    with np.errstate(over="ignore"):  # told below
        converted = values.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise SignatureError(f"instances: a value is out of the range of {datatype}")
    return converted


def _within(values: Array, limits: np.iinfo[np.signedinteger]) -> bool:
    return int(values.min()) >= limits.min and int(values.max()) <= limits.max


def encode(outputs: Sequence[Tensor]) -> dict[str, list[object]]:
    """The outputs as rows: plain values if there is one output, else one object per row.

    Raises:
        SignatureError: The outputs do not share their first axis.
        InferenceFailed: An output is not finite, which JSON cannot express.
    """
    columns = {one.name: _column(one) for one in outputs}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    if len({len(column) for column in columns.values()}) > 1:
        raise SignatureError("V1 cannot express outputs of different lengths; use /v2")
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _column(output: Tensor) -> list[object]:
    array = np.atleast_1d(output.array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InferenceFailed(f"the output '{output.name}' is not finite, which JSON cannot express")
    rows: list[object] = array.tolist() if array.dtype.kind != "O" else _text_rows(array)
    return rows


def _text_rows(array: Array) -> list[object]:
    text = np.array([item.decode(errors="replace") for item in array.flat], object).reshape(array.shape)
    return list(text.tolist())
