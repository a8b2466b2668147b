"""Whether a request fits a model, before the runtime sees it.

What belongs here: names, datatypes and shapes. What does not: values. Pure: no I/O, no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oip.messages import DTYPES
from predictor.errors import InferenceFailed, SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oip.messages import Array, RequestedOutput, Tensor, TensorMetadata


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, by name, in the model's order."""

    inputs: Mapping[str, TensorMetadata]
    outputs: Mapping[str, TensorMetadata]

    @classmethod
    def of(cls, inputs: Sequence[TensorMetadata], outputs: Sequence[TensorMetadata]) -> Signature:
        """The signature of these inputs and outputs."""
        return cls({one.name: one for one in inputs}, {one.name: one for one in outputs})

    def arrays(self, tensors: Sequence[Tensor]) -> dict[str, Array]:
        """The request's tensors as the model's named arrays.

        Raises:
            SignatureError: An input is unknown, repeated or missing, or its datatype or shape does not fit.
        """
        arrays: dict[str, Array] = {}
        for index, tensor in enumerate(tensors):
            expected = self.inputs.get(tensor.name)
            if expected is None:
                raise SignatureError(
                    f"inputs[{index}].name: the model has no input '{tensor.name}'; it has {_listed(self.inputs)}"
                )
            if tensor.array.dtype != DTYPES[expected.datatype]:
                raise SignatureError(
                    f"inputs[{index}].datatype: '{tensor.name}' is {expected.datatype}, not {tensor.datatype}"
                )
            if not _fits(tensor.array.shape, expected.shape):
                raise SignatureError(
                    f"inputs[{index}].shape: '{tensor.name}' is {list(expected.shape)}, not {list(tensor.shape)}"
                )
            arrays[tensor.name] = tensor.array
        self._check_complete(arrays, len(tensors))
        return arrays

    def _check_complete(self, arrays: Mapping[str, Array], count: int) -> None:
        if len(arrays) != count:
            raise SignatureError("inputs: an input is given twice")
        if len(arrays) != len(self.inputs):
            missing = [name for name in self.inputs if name not in arrays]
            raise SignatureError(f"inputs: missing {_listed(missing)}")

    def output_names(self, requested: Sequence[RequestedOutput]) -> list[str]:
        """The outputs asked for, in that order; all of them if none is named.

        Raises:
            SignatureError: The model has no such output.
        """
        for index, one in enumerate(requested):
            if one.name not in self.outputs:
                raise SignatureError(
                    f"outputs[{index}].name: the model has no output '{one.name}'; it has {_listed(self.outputs)}"
                )
        return [one.name for one in requested] or list(self.outputs)

    def check_results(self, names: Sequence[str], results: Sequence[Array]) -> None:
        """Raise `InferenceFailed` if the model answers with another datatype than it declares."""
        for name, result in zip(names, results, strict=True):
            if result.dtype != DTYPES[self.outputs[name].datatype]:
                raise InferenceFailed(f"the output '{name}' is {result.dtype}, not {self.outputs[name].datatype}")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a shape fits one where -1 stands for any size.

    ONNX Runtime tells `[]` both for a scalar and for a tensor of unknown rank; such an input is left to the runtime.
    """
    if not expected:
        return True
    return len(shape) == len(expected) and all(map(_axis_fits, shape, expected))


def _axis_fits(size: int, expected: int) -> bool:
    return expected in (size, -1)


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names)
