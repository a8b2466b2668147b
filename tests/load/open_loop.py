"""The open loop: requests leave at moments that were fixed in advance, whatever becomes of the earlier ones.

`python tests/load/open_loop.py PLAN`; SIGTERM ends the sending early, and what was sent is still waited for.

Latency counts from the intended moment, so a service that stalls is charged for every request that it kept waiting,
also for those that could not even be sent ("coordinated omission": Gil Tene, How NOT to Measure Latency, 2013). Moments
are those of a Poisson process, as of many clients that do not know each other.

What belongs here: the moments and the sending. What does not: what is sent (`traffic`) and what is made of it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import records
import uvloop
from plan import Plan
from records import Answer, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from traffic import Request

BEGUN = "sending\n"
"""Written to the standard output once, so that whoever has started this knows."""

KEEP_ALIVE_S = 1.0
"""How long an unused connection is kept. aiohttp uses the one that was idle for longest, so with its 15 s all that one
stall opened stay in use for ever, and the service's descriptors would only tell of the worst stall so far."""

_LEAD_S = 0.2
"""From the end of the preparations to the first request."""


def moments(rate_hz: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times of a Poisson process, in seconds from its start."""
    random = np.random.default_rng(seed)
    expected = rate_hz * seconds
    gaps_s = random.exponential(1.0 / rate_hz, size=int(expected + 10.0 * np.sqrt(expected) + 10))
    arrivals_s: NDArray[np.float64] = np.cumsum(gaps_s)
    return arrivals_s[arrivals_s < seconds]


async def run(plan: Plan) -> list[Record]:
    """Send everything, or until SIGTERM; the result of each request, in the order of their intended moments."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    due_s = moments(plan.rate_hz, plan.seconds, plan.seed)
    draw = plan.draw(plan.bodies())
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    async with aiohttp.ClientSession(plan.url, connector=connector, timeout=timeout, trust_env=False) as session:
        start_s = time.monotonic() + _LEAD_S
        sys.stdout.write(BEGUN)
        sys.stdout.flush()
        tasks = []
        for at_s, request in zip(start_s + due_s, islice(draw, len(due_s)), strict=True):
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            if ended.is_set():
                break
            tasks.append(asyncio.create_task(_send(session, plan, request, float(at_s))))
        return list(await asyncio.gather(*tasks))


async def _send(session: aiohttp.ClientSession, plan: Plan, request: Request, intended_s: float) -> Record:
    sent_s = time.monotonic()
    try:
        async with session.post(
            request.path, data=request.body, headers={**request.headers, **plan.headers}
        ) as response:
            body = await response.read()
        done_s = time.monotonic()
        answer = Answer.read(request.form, response.status, response.headers, body)
    except (aiohttp.ClientError, OSError) as error:
        done_s = time.monotonic()
        answer = Answer.none(error)
    return Record(
        intended_s=intended_s,
        sent_s=sent_s,
        done_s=done_s,
        form=request.form,
        capture=request.capture,
        **answer.members(),
    )


def main() -> None:
    """Run the plan that the command line names."""
    plan = Plan.load(Path(sys.argv[1]))
    records.write(plan.records, uvloop.run(run(plan)))


if __name__ == "__main__":
    main()
