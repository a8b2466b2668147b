"""An ONNX Runtime session: named arrays in, arrays out.

What belongs here: everything that touches onnxruntime, but for its graphs on disk (`graph_cache`). What does not:
threads that wait for it (`workers`), first runs (`warm_up`), and whether a request fits (`signature`).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from oip.messages import TensorMetadata
from predictor.errors import ArtifactError, InferenceFailed, SettingsError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from oip.messages import Array

    Axes = tuple[int | str | None, ...]
    OpenSession = Callable[[Path, Callable[[], ort.SessionOptions], Sequence[str]], ort.InferenceSession]

DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's name of a type → V2 datatype. Those without an entry (bfloat16, sequences, maps) have none in V2."""

_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.ModelLoadCanceled,
    ort_errors.ModelRequiresCompilation,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotFound,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,  # pybind's own, for C++ exceptions that have no class of their own
    ValueError,  # raised by onnxruntime's Python layer
)
"""What onnxruntime raises; its classes have no common root below `Exception`."""


def _shrinking() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    options.log_severity_level = 3  # errors; they are raised as well
    return options


_SHRINKING = _shrinking()
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


class Session:
    """A loaded model. `run` may be called from several threads at once.

    Args:
        path: The .onnx file.
        threads: Threads that share the work of one operator.
        providers: ONNX Runtime execution providers, in order of preference.
        open_session: Makes the runtime's session in place of this class; see `graph_cache.GraphCache.open`.

    Attributes:
        axes: Each input's axes as the model has them: a size, a name, or None.
        inputs: The inputs as the protocol tells them.
        outputs: The outputs as the protocol tells them, without those that it cannot express.
        metadata_props: What the model says about itself.

    Raises:
        SettingsError: A provider is not there; the runtime itself would warn and take the CPU.
        ArtifactError: The runtime refuses the file, or the protocol has no word for the type of an input.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        open_session: OpenSession | None = None,
    ) -> None:
        if missing := [name for name in providers if name not in ort.get_available_providers()]:
            raise SettingsError(f"this build of ONNX Runtime has no {', '.join(missing)}")
        try:
            self._session = (open_session or _opened)(path, partial(_options, threads), providers)
        except _RUNTIME_ERRORS as error:
            raise ArtifactError(f"{path} is not a model that can be run: {_one_line(error)}") from error
        self.axes: Mapping[str, Axes] = {node.name: tuple(node.shape) for node in self._session.get_inputs()}
        self.inputs = tuple(_input_metadata(node) for node in self._session.get_inputs())
        self.outputs = tuple(_metadata(node) for node in self._session.get_outputs() if node.type in DATATYPES)
        if not self.outputs:
            raise ArtifactError(f"{path} has no output that is a tensor of a type known to the protocol")
        self.metadata_props: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._text_inputs = frozenset(one.name for one in self.inputs if one.datatype == "BYTES")
        self._has_text_outputs = any(one.datatype == "BYTES" for one in self.outputs)

    def run(
        self, inputs: Mapping[str, Array], output_names: Sequence[str], *, shrink: bool = False
    ) -> tuple[Array, ...]:
        """Compute the outputs of these names, and nothing that only the others need.

        Args:
            inputs: One array per input, of the dtype and shape that `inputs` of the session tells.
            output_names: Names out of `outputs`.
            shrink: Whether the runtime gives back the memory that earlier, larger runs needed.

        Returns:
            One C-contiguous array per name; text as object arrays of `bytes`.

        Raises:
            SignatureError: The runtime finds fault with the inputs, or a text is not UTF-8.
            InferenceFailed: The runtime fails otherwise.
        """
        feed = self._with_text(inputs) if self._text_inputs else inputs
        try:
            results = self._session.run(output_names, feed, _SHRINKING if shrink else None)
        except ort_errors.InvalidArgument as error:
            raise SignatureError(f"inputs: the model refuses them: {_one_line(error)}") from error
        except _RUNTIME_ERRORS as error:
            self._explain(inputs)
            raise InferenceFailed(_one_line(error)) from error
        return tuple(map(_text_as_bytes, results)) if self._has_text_outputs else tuple(results)

    def _with_text(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _bytes_as_text(name, one) if name in self._text_inputs else one for name, one in inputs.items()}

    def _explain(self, inputs: Mapping[str, Array]) -> None:
        """After a failure: blame the request if axes of one name differ in size.

        ONNX gives such axes one size (onnx.proto, `dim_param`), but exporters are careless with the names and models
        with contradictory ones do run, so this is not asked before.
        """
        sizes: dict[str, tuple[str, int]] = {}
        for name, array in inputs.items():
            for axis, size in zip(self.axes[name], array.shape, strict=False):
                if isinstance(axis, str):
                    first, expected = sizes.setdefault(axis, (name, size))
                    if size != expected:
                        raise SignatureError(f"inputs: '{axis}' is {expected} in '{first}' but {size} in '{name}'")


def _opened(path: Path, options: Callable[[], ort.SessionOptions], providers: Sequence[str]) -> ort.InferenceSession:
    return ort.InferenceSession(path, options(), providers=list(providers))


def _options(threads: int) -> ort.SessionOptions:
    """Threads sleep while they wait: spinning burnt 3 CPU-seconds in the second after one query, for no gain."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # branches of the graph run one after the other (ORT_SEQUENTIAL)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; they are raised as well
    return options


def _input_metadata(node: ort.NodeArg) -> TensorMetadata:
    if node.type not in DATATYPES:
        raise ArtifactError(f"the input '{node.name}' is a {node.type}, which the protocol cannot express")
    return _metadata(node)


def _metadata(node: ort.NodeArg) -> TensorMetadata:
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
    return TensorMetadata(node.name, DATATYPES[node.type], shape)


def _bytes_as_text(name: str, array: Array) -> Array:
    """ONNX text is UTF-8. Handed `bytes`, ONNX Runtime would take their Python notation, such as `b'x'`."""
    try:
        text = [item.decode() for item in array.flat]
    except UnicodeDecodeError as error:
        raise SignatureError(f"inputs: '{name}' holds text that is not UTF-8") from error
    return _object_array(text, array.shape)


def _text_as_bytes(array: Array) -> Array:
    return _object_array([item.encode() for item in array.flat], array.shape) if array.dtype == object else array


def _object_array(items: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def _one_line(error: Exception) -> str:
    """The runtime's message without its line breaks and its prefix `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : `."""
    return " ".join(_PREFIX.sub("", str(error)).split())
