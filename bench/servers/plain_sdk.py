"""What one gets by following the KServe SDK's documentation: a custom model with ONNX Runtime.

`python plain_sdk.py MODEL --http_port PORT --grpc_port PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import kserve
import onnxruntime
from kserve.utils.numpy_codec import from_np_dtype


class PlainModel(kserve.Model):  # type: ignore[misc]  # kserve ships no types
    """Predict on the SDK's request type, as in its examples."""

    def __init__(self, path: str) -> None:
        super().__init__("localization")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: kserve.InferRequest, headers: dict[str, str] | None = None) -> Any:  # noqa: ANN401, ARG002 - the SDK's signature
        """Run the session on the event loop, which is where the SDK calls this."""
        names = [output.name for output in self.session.get_outputs()]
        results = self.session.run(names, {"log_mel": payload.inputs[0].as_numpy()})
        outputs = []
        for name, result in zip(names, results, strict=True):
            output = kserve.InferOutput(name, list(result.shape), from_np_dtype(result.dtype))
            output.set_data_from_numpy(result, binary_data=True)
            outputs.append(output)
        return kserve.InferResponse(payload.id or "", "localization", outputs)


kserve.ModelServer().start([PlainModel(sys.argv[1])])
