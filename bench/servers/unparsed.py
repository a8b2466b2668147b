"""The predictor without its reader: every body is received in full and then taken for the same request.

`python unparsed.py` with the predictor's options. What a JSON request costs here is everything but reading JSON: the
connection, HTTP, the run, the answer. So this and the parser alone are together the least that a JSON request can cost.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from oip.messages import InferRequest, Tensor
from predictor.__main__ import main

_REQUEST = InferRequest((Tensor("log_mel", np.zeros((1, 7, 32, 128), np.float32)),))


def _unread(_body: bytes, _json_size: int | None = None) -> InferRequest:
    return _REQUEST


with patch("oip.asgi.decode_request", _unread):
    main()
