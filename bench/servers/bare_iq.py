"""The practical limit for IQ: a Starlette route that computes features and runs the session, in one process, in place.

`python bare_iq.py MODEL PORT`. `np.frombuffer` on the FP32 samples behind the JSON header, the service's own feature
extractor, the session; outputs leave in binary. No checks, no ellipse, no errors, no versions, no cache, no metrics.
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

from transformer.contract import parse_contract
from transformer.features import LogMel

if TYPE_CHECKING:
    from starlette.requests import Request


def session(path: str) -> onnxruntime.InferenceSession:
    """One thread and no spinning, as the servers that it is compared with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Serve until killed."""
    model, port = session(sys.argv[1]), int(sys.argv[2])
    names = [output.name for output in model.get_outputs()]
    log_mel = LogMel(parse_contract(model.get_modelmeta().custom_metadata_map["heimdall.contract"]))

    async def infer(request: Request) -> Response:
        body = await request.body()
        size = int(request.headers["inference-header-content-length"])
        shape = orjson.loads(body[:size])["inputs"][0]["shape"]
        iq = np.frombuffer(body, np.complex64, offset=size).reshape(shape[:-1])
        results = model.run(names, {"log_mel": log_mel(iq)})
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(r.shape), "parameters": {"binary_data_size": r.nbytes}}
            for name, r in zip(names, results, strict=True)
        ]
        text = orjson.dumps({"model_name": "localization", "outputs": outputs})
        headers = {"inference-header-content-length": str(len(text))}
        return Response(b"".join([text, *(r.tobytes() for r in results)]), headers=headers)

    app = Starlette(routes=[Route("/v2/models/localization/infer", infer, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False, loop="uvloop", http="httptools")


main()
