from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from oip.messages import Array
    from reference.simulate import Captures

JSON_SIZE = "inference-header-content-length"
DRAIN_S = 3.0
CLIENTS = 4


def _body(iq: Array) -> tuple[bytes, dict[str, str]]:
    encoded = encode_request(InferRequest((Tensor("iq", iq),), parameters={"cache": False}), binary=True)
    return encoded.body, {JSON_SIZE: str(encoded.json_size)}


def test_nothing_is_lost_on_sigterm(fleet: Any, predictor: Any, drawn: Captures) -> None:  # noqa: ANN401 - conftest.py
    """SIGTERM under load: what is sent in the drain is answered with 200, even if it takes longer; exit code 0.

    Readiness is denied meanwhile. The moment at which the listener closes is the matter of
    `test_connections_at_the_end.py`.
    """
    transformer = fleet.transformer(predictor.address, "--drain_s", str(DRAIN_S))
    transformer.wait_until(transformer.ready)
    small, large = _body(drawn.iq[:4]), _body(np.concatenate([drawn.iq] * 4))
    winding_up = threading.Event()

    def ask(number: int) -> list[int]:
        statuses = []
        while not winding_up.is_set():
            statuses.append(transformer.call("POST", "/v2/models/localization/infer", *small).status)
        last = large if number % 2 else small
        return [*statuses, transformer.call("POST", "/v2/models/localization/infer", *last).status]

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask, number) for number in range(CLIENTS)]
        time.sleep(0.5)
        transformer.process.send_signal(signal.SIGTERM)
        transformer.wait_until(lambda: transformer.call("GET", "/v2/health/ready").status == 503, DRAIN_S)
        assert transformer.call("GET", "/health").json["status"] == "unhealthy"
        time.sleep(0.1)
        winding_up.set()
        answered = [client.result(30) for client in clients]
    assert transformer.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        transformer.call("GET", "/health")
    assert all(len(statuses) > 1 for statuses in answered)
    assert {status for statuses in answered for status in statuses} == {200}
    log = transformer.log.read_text()
    assert "Unclosed" not in log
    assert "Traceback" not in log
