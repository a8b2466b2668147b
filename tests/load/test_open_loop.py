from __future__ import annotations

from typing import TYPE_CHECKING, Any

import generators
import numpy as np
import pytest
from open_loop import moments
from plan import Plan
from scipy import stats
from traffic import Form, Traffic

if TYPE_CHECKING:
    from pathlib import Path

REST = Traffic(shares={Form.REST: 1.0})


def test_moments_are_those_of_a_poisson_process() -> None:
    """Gaps follow the exponential distribution of the rate (Kolmogorov-Smirnov), and nothing lies beyond the end."""
    at_s = moments(200.0, 50.0, seed=3)
    assert stats.kstest(np.diff(at_s), "expon", args=(0, 1 / 200.0)).pvalue > 0.01
    assert len(at_s) == pytest.approx(10_000, abs=500)
    assert 0.0 <= at_s[0] <= at_s[-1] < 50.0
    assert (moments(200.0, 50.0, seed=3) == at_s).all()


def _plan(server: Any, captures: Path, folder: Path, **load: float) -> Plan:  # noqa: ANN401 - of conftest.py
    url, records = f"http://127.0.0.1:{server.port}", folder / "records.jsonl"
    return Plan(url=url, captures=captures, records=records, traffic=REST, **load)


def test_a_stall_is_charged_for_everybody_it_kept_waiting(stalling: Any, small_captures: Path, tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Open loop: whoever meant to come during the stall waited for its end, and the moments did not move."""
    plan = _plan(stalling, small_captures, tmp_path, seconds=2.5, rate_hz=100.0)
    records = generators.open_loop(plan).records
    due_s = moments(100.0, 2.5, plan.seed)
    assert len(records) == len(due_s)
    assert np.diff([one.intended_s for one in records]) == pytest.approx(np.diff(due_s), abs=1e-6)
    at_s = np.array([one.intended_s for one in records]) - stalling.stall_begins_s
    latency_s = np.array([one.latency_s for one in records])
    early = (at_s > 0.0) & (at_s < 0.45)
    assert early.sum() > 20
    assert (latency_s[early] > 0.5).all()  # half of the stall was still ahead of each of them
    assert (latency_s > 0.5).sum() > 30


def test_a_closed_loop_hides_it(stalling: Any, small_captures: Path, tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The same stall, seen by two clients that wait for their answers: two requests in all. Hence the open loop."""
    records = generators.closed_loop(_plan(stalling, small_captures, tmp_path, seconds=2.5, clients=2)).records
    assert len(records) > 20
    assert all(one.ok for one in records)
    assert sum(one.latency_s > 0.8 for one in records) <= 2


def test_what_is_not_answered_is_a_record_too(prompt: Any, small_captures: Path, tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A port that nobody listens on: every request of either loop is there, as not answered, with the reason."""
    prompt.port = 9  # RFC 863, which nobody runs
    plan = _plan(prompt, small_captures, tmp_path, seconds=1.0, rate_hz=20.0)
    for generator in (generators.open_loop, generators.closed_loop):
        records = generator(plan).records
        assert records
        assert {one.status for one in records} == {0}
        assert all(one.error for one in records)
