from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.series import Series, growths, parse_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

SINCE_S = 1_000.0


def _series(name: str, samples: Sequence[tuple[float, float]], **labels: str) -> Series:
    at_s, values = np.array(samples, dtype=np.float64).T
    return Series({"__name__": name, "instance": "a"} | labels, at_s, values)


def _growth(samples: Sequence[tuple[float, float]], starts: Sequence[tuple[float, float]] | None = None) -> float:
    began = [] if starts is None else [_series("process_start_time_seconds", starts)]
    ((_, growth),) = growths([_series("calls", samples)], began, SINCE_S)
    return growth


@pytest.mark.parametrize(
    ("samples", "starts", "expected"),
    [
        ([(1_005.0, 5.0), (1_010.0, 8.0), (1_020.0, 9.0)], [(1_005.0, 1.0), (1_020.0, 1.0)], 4.0),
        ([(1_005.0, 5.0)], [(1_005.0, 1.0), (1_010.0, 1.0)], 0.0),
        ([(1_010.0, 8.0)], [(1_005.0, 1.0), (1_010.0, 1.0)], 8.0),
        ([(1_010.0, 8.0), (1_020.0, 9.0)], [(1_010.0, 1_005.0), (1_020.0, 1_005.0)], 9.0),
        ([(1_010.0, 8.0), (1_020.0, 9.0)], None, 1.0),
        ([(1_005.0, 5.0), (1_010.0, 8.0), (1_020.0, 2.0)], None, 5.0),
        ([(1_005.0, 5.0), (1_020.0, 7.0)], [(1_005.0, 1.0), (1_020.0, 1_015.0)], 7.0),
        ([(1_005.0, 5.0), (1_020.0, 7.0)], [(1_005.0, 1.0), (1_020.0, 1.01)], 2.0),
        ([(1_020.0, 7.0)], [(1_005.0, 1.0), (1_020.0, 1_015.0)], 7.0),
    ],
    ids=[
        "from the first sample to the last",
        "a pod that is gone",
        "a new series of a process that was read before",
        "a new process",
        "a process whose start is not known",
        "a fall is a restart",
        "a restart that outgrew its old value",
        "a start that was corrected is no restart",
        "a new series after a restart",
    ],
)
def test_growth(samples: list[tuple[float, float]], starts: list[tuple[float, float]] | None, expected: float) -> None:
    """Growth is what was really counted between the first scrape of a process and the last, or since its birth."""
    assert _growth(samples, starts) == expected


def test_a_fall_of_one_series_restarts_all_of_the_process() -> None:
    """Without the process's start, one counter's fall says that its neighbour, which rose, began again too."""
    fallen = _series("calls", [(1_005.0, 100.0), (1_010.0, 3.0)], code="200")
    risen = _series("calls", [(1_005.0, 1.0), (1_010.0, 2.0)], code="503")
    other = _series("calls", [(1_005.0, 1.0), (1_010.0, 2.0)], code="503", instance="b")
    assert [growth for _, growth in growths([fallen, risen, other], [], SINCE_S)] == [3.0, 2.0, 1.0]


@st.composite
def _lives(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[float, float]], float]:
    """Scrapes of a process that may restart, and the calls that were counted after the first of them.

    Calls between a scrape and a restart are lost to everybody: they are not counted here either.
    """
    samples, starts, truth, value, start_s = [], [], 0.0, 0.0, 1.0
    for at_s in range(1_025, 1_425, 25):
        if samples and draw(st.integers(0, 4)) == 0:
            value, start_s = 0.0, at_s - 5.0
        calls = float(draw(st.integers(0, 50)))
        value += calls
        truth += calls if samples else 0.0
        samples.append((float(at_s), value))
        starts.append((float(at_s), start_s))
    return samples, starts, truth


@given(_lives())
@settings(max_examples=200, deadline=None)
def test_every_call_that_was_scraped_is_counted_once(
    life: tuple[list[tuple[float, float]], list[tuple[float, float]], float],
) -> None:
    """Whatever restarts and however far counters outgrow their old values, the sum is exact."""
    samples, starts, truth = life
    assert _growth(samples, starts) == truth


@given(_lives(), st.integers(1, 15))
@settings(max_examples=100, deadline=None)
def test_counts_never_go_backwards(
    life: tuple[list[tuple[float, float]], list[tuple[float, float]], float], until: int
) -> None:
    """A later look at the same life sees at least as much."""
    samples, starts, _ = life
    assert _growth(samples[:until], starts[:until]) <= _growth(samples, starts)


def test_a_range_vector_is_read() -> None:
    """Prometheus's JSON for a range vector, a series without samples left out."""
    found = parse_matrix([{"metric": {"le": "+Inf"}, "values": [[1.5, "2"]]}, {"metric": {}, "values": []}])
    assert [(dict(one.labels), one.at_s.tolist(), one.values.tolist()) for one in found] == [
        ({"le": "+Inf"}, [1.5], [2.0])
    ]


@pytest.mark.parametrize("result", [None, [{"metric": {}}], [{"metric": {}, "values": [["x", "2"]]}], [3]])
def test_anything_else_is_refused(result: object) -> None:
    """What is no range vector is said to be none, with one kind of error."""
    with pytest.raises(ValueError, match="range vector"):
        parse_matrix(result)
