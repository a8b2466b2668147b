"""The closed loop, for locust: each of some clients sends its next request when it has the answer to the last.

A client that is refused comes again when it was told to (Retry-After), as RFC 9110 §10.2.3 asks for.

`HEIMDALL_LOAD_PLAN=PLAN locust -f tests/load/closed_loop.py --headless`; numbers of clients and seconds are the plan's.
Such a load slows down with the service, which flatters its latency; what it shows is throughput. See `open_loop`.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import records
from locust import FastHttpUser, LoadTestShape, events, task
from plan import PLAN_VARIABLE, Plan
from records import Answer, Record

if TYPE_CHECKING:
    from locust.contrib.fasthttp import FastResponse
    from traffic import Request

PLAN = Plan.load(Path(os.environ[PLAN_VARIABLE]))
BODIES = PLAN.bodies()
_done: list[Record] = []
_parts = itertools.count()


class AllAtOnce(LoadTestShape):
    """The plan's clients from the first moment, for the plan's seconds."""

    def tick(self) -> tuple[int, float] | None:
        """How many clients there are to be now, and how many may be added in a second."""
        return (PLAN.clients, PLAN.clients) if self.get_run_time() < PLAN.seconds else None


class Receiver(FastHttpUser):
    """One client."""

    host = PLAN.url
    connection_timeout = network_timeout = PLAN.timeout_s

    def on_start(self) -> None:
        """A draw of its own."""
        self._draw = PLAN.draw(BODIES, next(_parts))

    @task
    def ask(self) -> None:
        """One request, and what came of it."""
        request = next(self._draw)
        sent_s = time.monotonic()
        response = self._post(request)
        done_s = time.monotonic()
        _done.append(
            Record(
                intended_s=sent_s,
                sent_s=sent_s,
                done_s=done_s,
                form=request.form,
                capture=request.capture,
                **_answer(request, response).members(),
            )
        )
        time.sleep(float((response.headers or {}).get("Retry-After", 0)))  # of this client; gevent lets others go on

    def _post(self, request: Request) -> FastResponse:
        headers = {**request.headers, **PLAN.headers}
        return self.client.post(request.path, data=request.body, headers=headers, name=request.form)


def _answer(request: Request, response: FastResponse) -> Answer:
    if response.status_code == records.NO_ANSWER:
        return Answer.none(response.error)
    return Answer.read(request.form, response.status_code, response.headers, response.content or b"")


@events.quitting.add_listener
def _write(**_: Any) -> None:  # noqa: ANN401 - locust's own
    records.write(PLAN.records, _done)
