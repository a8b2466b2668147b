"""Counts through a real Prometheus, whatever happens to the processes that it reads."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rollout.evidence import EvidenceUnavailable
from rollout.prometheus import PrometheusEvidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = Path(__file__).parents[1] / "servers" / "counting.py"
REVISION = "loc-predictor-00002"


class Counting:
    """A process that counts what it is told, on a port of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """From now on it counts from zero."""
        command = [sys.executable, str(SERVER), str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._said() == "ready"

    def count(self, code: str, times: int, seconds: float = 0.05) -> None:
        """So many calls of the canary's predictor."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{REVISION} {code} {seconds} {times}\n")
        self.process.stdin.flush()
        assert self._said() == "counted"

    def kill(self) -> None:
        """It is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def _said(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def pods(unused_port: Callable[[], int]) -> Iterator[tuple[Counting, Counting]]:
    """Two processes, as two pods of the transformer."""
    with _counting(unused_port()) as one, _counting(unused_port()) as other:
        yield one, other


@contextmanager
def _counting(port: int) -> Iterator[Counting]:
    found = Counting(port)
    try:
        yield found
    finally:
        found.kill()


def test_restarts_and_lost_pods(
    prometheus: Callable[..., Any], pods: tuple[Counting, Counting], begun: Callable[..., Any]
) -> None:
    """Every call that was read is counted once: before a restart, after it, and of a pod that is gone.

    After its restart the process counts more than before, so that its counters never seem to fall. Calls before the
    step do not belong to it.
    """
    one, other = pods
    one.count("200", 1_000)
    server = prometheus(one.port, other.port)
    release = begun()
    server.wait_for_scrape()
    one.count("200", 5, seconds=0.5)
    one.count("unreachable", 3)
    other.count("200", 7)
    other.count("503", 2)
    server.wait_for_scrape()
    one.kill()
    other.kill()
    one.start()
    one.count("200", 1_500)
    one.count("unreachable", 4)
    server.wait_for_scrape()
    with PrometheusEvidence(server.url, 'job="transformer"') as evidence:
        look = evidence.look(release, time.time() - release.step_began_at.timestamp())
        assert look.stable is None
        assert look.canary is not None
        calls = look.canary.calls
        assert (calls.succeeded, calls.unreachable, calls.failed) == (5 + 7 + 1_500, 3 + 4, 2)
        assert look.canary.latency_s.bounds == (0.01, 0.1, 1.0)
        assert look.canary.latency_s.counts == (0.0, 7.0 + 1_500.0, 5.0, 0.0)


def test_what_was_called_before_the_step(
    prometheus: Callable[..., Any], pods: tuple[Counting, Counting], begun: Callable[..., Any]
) -> None:
    """Calls of a moment ago that no scrape has seen yet are not the step's: the probe set's must not be."""
    one, other = pods
    server = prometheus(one.port, other.port)
    one.count("200", 10)
    server.wait_for_scrape()
    one.count("200", 1_000)
    other.count("200", 1_000)
    release = begun()
    server.wait_for_scrape()
    one.count("200", 5)
    server.wait_for_scrape()
    with PrometheusEvidence(server.url) as evidence:
        look = evidence.look(release, time.time() - release.step_began_at.timestamp())
        assert look.canary is not None
        assert look.canary.calls.succeeded == 5.0


def test_prometheus_away_and_pods_unread(
    prometheus: Callable[..., Any], pods: tuple[Counting, Counting], begun: Callable[..., Any]
) -> None:
    """Pods that are not read any more, and a Prometheus that is dead: both times there is no evidence."""
    one, _ = pods
    server = prometheus(one.port)
    one.count("200", 5)
    release = begun()
    server.wait_for_scrape()
    one.kill()
    time.sleep(2.5)
    with PrometheusEvidence(server.url, stale_after_s=2.0, timeout_s=2.0) as evidence:
        with pytest.raises(EvidenceUnavailable, match="last read the transformer"):
            evidence.look(release, time.time() - release.step_began_at.timestamp())
        server.process.kill()
        server.process.wait()
        with pytest.raises(EvidenceUnavailable, match="cannot be asked"):
            evidence.look(release, 10.0)
