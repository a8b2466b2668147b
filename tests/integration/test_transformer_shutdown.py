from __future__ import annotations

import itertools
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from reference.simulate import Captures


def test_nothing_is_lost_on_sigterm(fleet: Any, predictor: Any, drawn: Captures) -> None:  # noqa: ANN401 - conftest.py
    """SIGTERM under load: every request that is accepted is answered with 200, readiness is denied, exit code 0."""
    transformer = fleet.transformer(predictor.address, "--drain_s", "1")
    transformer.wait_until(transformer.ready)
    request = InferRequest((Tensor("iq", drawn.iq[:4]),))

    def ask_until_refused() -> list[int]:
        statuses = []
        for _ in itertools.count():
            try:
                statuses.append(transformer.infer_raw(request).status)
            except ConnectionRefusedError:
                return statuses
        return []

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_until_refused) for _ in range(4)]
        time.sleep(0.5)
        transformer.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert transformer.call("GET", "/v2/health/ready").status == 503
        assert transformer.call("GET", "/health").json["status"] == "unhealthy"
        answered = [client.result(30) for client in clients]
    assert transformer.process.wait(20) == 0
    assert all(len(statuses) > 2 for statuses in answered)
    assert set(itertools.chain(*answered)) == {200}
    log = transformer.log.read_text()
    assert "Unclosed" not in log
    assert "Traceback" not in log
