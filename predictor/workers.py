"""Threads that run the model, so that the event loop never waits for it.

What belongs here: the queue, its bound, which of the waiting requests share a run, and the hand-off in both
directions. What does not: the run itself (`work`).

The hand-off is on the path of every request. A deque, one `SimpleQueue.put` there and one `call_soon_threadsafe` back
cost about half the CPU of `loop.run_in_executor`, which makes a second future, a lock and a work item for each call
(measured with 16 requests in flight: 30 µs against 63 µs).

Batches form by themselves: a worker that becomes free takes the request that has waited longest and, up to the limit,
all that wait and may share its run. A lone request never waits for others.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from predictor.errors import DeadlinePassed, Overloaded
from predictor.work import Results, execute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predictor.work import Execution, Work


class Outcome(NamedTuple):
    """What a request gets: its results, how long it waited, and the runs to be counted with it.

    Of a run shared by several requests, the first one's outcome holds it.
    """

    results: Results
    queue_s: float
    executions: Sequence[Execution]


class _Job(NamedTuple):
    future: asyncio.Future[Outcome]
    work: Work
    submitted_s: float


_Delivery = tuple[asyncio.Future[Outcome], Outcome | Exception | None]


class WorkerPool:
    """A fixed number of threads and a bounded queue. Everything but the work itself belongs to one event loop.

    Args:
        threads: How many runs there are at once.
        max_queue: How many more requests may wait.
        max_rows: The largest batch.
        wait_s: How long a worker waits for a batch to grow, if there is more than one request in the pool.
    """

    def __init__(self, threads: int, max_queue: int, *, max_rows: int = 1, wait_s: float = 0.0) -> None:
        self._limit = threads + max_queue
        self._max_rows = max_rows
        self._wait_s = wait_s
        self._pending = 0
        self._closed = False
        self._waiting: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # one per job, taken or not; False ends a thread
        # Daemons: a run that never ends must not keep a terminated process alive.
        self._threads = [threading.Thread(target=self._work, name=f"model-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Requests that run or wait."""
        return self._pending

    @property
    def crowded(self) -> bool:
        """Whether somebody has to wait."""
        return self._pending > len(self._threads)

    @property
    def alive(self) -> int:
        """Threads that have not ended: all of them until `close`, and then those whose run still goes on."""
        return sum(thread.is_alive() for thread in self._threads)

    def submit(self, work: Work) -> asyncio.Future[Outcome]:
        """Have `work` done in a thread; the running event loop gets its outcome.

        A work whose future is done while it waits (cancelled, its client gone) is never begun, nor is one whose
        deadline has passed.

        Raises:
            Overloaded: At once, if as many requests are pending as may be.
        """
        if self._closed:
            raise Overloaded("the model is being unloaded")
        if self._pending >= self._limit:
            raise Overloaded(f"{self._pending} requests are waiting or running, no more are accepted")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending += 1
        self._waiting.append(_Job(future, work, time.perf_counter()))
        self._tokens.put(True)
        return future

    def close(self, timeout_s: float = 0.0) -> None:
        """Accept no more requests; wait up to `timeout_s` seconds for those accepted before."""
        self._closed = True
        for _ in self._threads:
            self._tokens.put(False)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _work(self) -> None:
        while self._tokens.get():
            jobs = self._take([])
            if jobs and self._wait_s:
                self._let_grow(jobs)
            if jobs:
                loop, deliveries = jobs[0].future.get_loop(), _done(jobs)
                with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                    loop.call_soon_threadsafe(self._deliver, deliveries)
                del loop, deliveries
            del jobs  # or an idle thread would keep the last request's tensors alive

    def _take(self, jobs: list[_Job]) -> list[_Job]:
        """Add to `jobs` what waits and may share their run; begin with the one that has waited longest."""
        with self._lock:
            if not jobs and self._waiting:
                jobs.append(self._waiting.popleft())
            if jobs and jobs[0].work.batch_key is not None and self._waiting:
                self._gather(jobs)
        return jobs

    def _gather(self, jobs: list[_Job]) -> None:
        key, rows = jobs[0].work.batch_key, sum(job.work.rows for job in jobs)
        passed_over = []
        while self._waiting and rows < self._max_rows:
            job = self._waiting.popleft()
            if job.work.batch_key == key and rows + job.work.rows <= self._max_rows:
                jobs.append(job)
                rows += job.work.rows
            else:
                passed_over.append(job)
        self._waiting.extendleft(reversed(passed_over))

    def _let_grow(self, jobs: list[_Job]) -> None:
        """Wait for more requests for the same run while others are about."""
        if jobs[0].work.batch_key is None:
            return
        until_s = time.perf_counter() + self._wait_s
        while self._pending > len(jobs) and sum(job.work.rows for job in jobs) < self._max_rows:
            count = len(jobs)
            try:
                token = self._tokens.get(timeout=max(0.0, until_s - time.perf_counter()))
            except Empty:
                return
            self._take(jobs)
            if len(jobs) == count and (not token or self._waiting):
                self._tokens.put(token)  # it stands for another job, or for the end
                return

    def _deliver(self, deliveries: Sequence[_Delivery]) -> None:
        for future, outcome in deliveries:
            self._pending -= 1
            if future.done() or outcome is None:
                continue
            if isinstance(outcome, Outcome):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


def _done(jobs: Sequence[_Job]) -> list[_Delivery]:
    """Do what is still wanted of `jobs`."""
    now_s = time.monotonic()
    deliveries: list[_Delivery] = []
    wanted: list[_Job] = []
    for job in jobs:
        if job.future.done():
            deliveries.append((job.future, None))
        elif job.work.deadline_s <= now_s:
            deliveries.append((job.future, DeadlinePassed("the request's time budget was used up while it waited")))
        else:
            wanted.append(job)
    return deliveries + _executed(wanted) if wanted else deliveries


def _executed(jobs: Sequence[_Job]) -> list[_Delivery]:
    began_s = time.perf_counter()
    outcomes, executions = execute([job.work for job in jobs])
    deliveries: list[_Delivery] = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, tuple):
            deliveries.append((job.future, Outcome(outcome, began_s - job.submitted_s, executions)))
            executions = []
        else:
            deliveries.append((job.future, outcome))
    return deliveries
