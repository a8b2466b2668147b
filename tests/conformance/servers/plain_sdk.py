"""A careful custom model of the KServe SDK, for comparison: it echoes, and checks names, datatypes and shapes.

`python plain_sdk.py --http_port PORT --enable_grpc false`. It describes its tensors through the SDK's hooks, leaves out
FP16, which the SDK does not write as JSON, and passes on which outputs are wanted and how. Whatever else is right or
wrong is the SDK's.
"""

from __future__ import annotations

from typing import Any

import kserve
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid

DATATYPES = ["BOOL", "BYTES", "FP32", "FP64"]
DATATYPES += [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]


class Identity(kserve.Model):  # type: ignore[misc]  # kserve ships no types
    """The k-th output is the k-th input."""

    def __init__(self) -> None:
        super().__init__("identity")
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The hook for the metadata of the inputs."""
        return [{"name": f"in_{name}", "datatype": name, "shape": [-1, 2]} for name in DATATYPES]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The hook for the metadata of the outputs."""
        return [{"name": f"out_{name}", "datatype": name, "shape": [-1, 2]} for name in DATATYPES]

    def predict(self, payload: kserve.InferRequest, headers: dict[str, str] | None = None) -> Any:  # noqa: ANN401, ARG002 - the SDK's signature
        """Hand every input back, as an array, the way the SDK's examples do."""
        names = {f"out_{name}" for name in DATATYPES}
        if sorted(tensor.name for tensor in payload.inputs) != sorted(f"in_{name}" for name in DATATYPES):
            raise InvalidInput("inputs: each must be given once")
        if not {one.name for one in payload.request_outputs or ()} <= names:
            raise InvalidInput("outputs: there is no such output")
        return kserve.InferResponse(
            payload.id or generate_uuid(),
            "identity",
            [_echo(tensor) for tensor in payload.inputs],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def _echo(tensor: kserve.InferInput) -> kserve.InferOutput:
    datatype = tensor.name.removeprefix("in_")
    if tensor.datatype != datatype or len(tensor.shape) != 2 or tensor.shape[1] != 2:
        raise InvalidInput(f"{tensor.name}: must be {datatype} of shape [-1, 2]")
    array = tensor.as_numpy()
    output = kserve.InferOutput(f"out_{datatype}", list(array.shape), datatype)
    output.set_data_from_numpy(array, binary_data=True)
    return output


kserve.ModelServer().start([Identity()])
