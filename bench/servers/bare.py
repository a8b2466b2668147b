"""The practical limit: a Starlette route that does nothing but what must be done, with the session run in place.

`python bare.py MODEL PORT binary|json`. Binary: `np.frombuffer` on the body behind the JSON header; JSON: orjson and
`np.array`. Outputs leave in binary (binary) or as JSON. No validation, no errors, no versions, no overload, no metrics.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


_DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64"}


def session(path: str) -> onnxruntime.InferenceSession:
    """One thread and no spinning, as the servers that it is compared with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Serve until killed."""
    model, port, form = session(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    names = [output.name for output in model.get_outputs()]
    kinds = [_DATATYPES[output.type] for output in model.get_outputs()]

    async def binary(request: Request) -> Response:
        body = await request.body()
        size = int(request.headers["inference-header-content-length"])
        head = orjson.loads(body[:size])
        shape = head["inputs"][0]["shape"]
        results = model.run(names, {"log_mel": np.frombuffer(body, np.float32, offset=size).reshape(shape)})
        outputs = [
            {"name": name, "datatype": kind, "shape": list(r.shape), "parameters": {"binary_data_size": r.nbytes}}
            for name, kind, r in zip(names, kinds, results, strict=True)
        ]
        text = orjson.dumps({"model_name": "localization", "outputs": outputs})
        headers = {"inference-header-content-length": str(len(text))}
        return Response(b"".join([text, *(r.tobytes() for r in results)]), headers=headers)

    async def as_json(request: Request) -> Response:
        tensor = orjson.loads(await request.body())["inputs"][0]
        results = model.run(names, {"log_mel": np.array(tensor["data"], np.float32).reshape(tensor["shape"])})
        outputs = [
            {"name": name, "datatype": kind, "shape": list(r.shape), "data": r.ravel()}
            for name, kind, r in zip(names, kinds, results, strict=True)
        ]
        text = orjson.dumps({"model_name": "localization", "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(text, media_type="application/json")

    handler = binary if form == "binary" else as_json
    app = Starlette(routes=[Route("/v2/models/localization/infer", handler, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False, loop="uvloop", http="httptools")


main()
