from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rollout.measurements import ArmCounts, Calls, Histogram, Look, contradictions, unknown

if TYPE_CHECKING:
    from collections.abc import Callable


def test_what_counts_as_an_error() -> None:
    """Everything but a usable answer does, a refusal of a request that was checked before too."""
    calls = Calls(succeeded=100.0, refused=1.0, failed=2.0, unreachable=4.0, timed_out=8.0, invalid=16.0)
    assert (calls.errors, calls.total) == (31.0, 131.0)


@pytest.mark.parametrize(("bounds", "counts"), [((1.0, 2.0), (1.0, 1.0)), ((2.0, 1.0), (1.0, 1.0, 1.0))])
def test_no_histogram(bounds: tuple[float, ...], counts: tuple[float, ...]) -> None:
    """A bucket for what lies above all bounds belongs to it, and bounds increase."""
    with pytest.raises(ValueError, match="bounds"):
        Histogram(bounds, counts)


def test_growing_counts_do_not_contradict(look: Callable[..., Look]) -> None:
    """Looks that grow, an arm that appears later included, are fine."""
    first = replace(look(100, 1, elapsed_s=30.0), canary=None)
    assert contradictions((first, look(100, 1, elapsed_s=60.0))) == ()


def test_counts_that_go_backwards_are_told(look: Callable[..., Look]) -> None:
    """Fewer failures than before, negative counts, a clock that goes back and other buckets are contradictions."""
    before = look(100, 5)
    after = replace(before, elapsed_s=1.0, canary=replace(before.canary, calls=Calls(95.0, failed=4.0)))
    assert contradictions((before, after)) == (
        "the time since the step's start fell from 600 s to 1 s",
        "canary's count of failed fell from 5 to 4",
    )
    negative = replace(before, stable=replace(before.stable, calls=Calls(-1.0)))
    assert contradictions((negative,)) == ("stable has -1 in succeeded",)
    other = replace(before, stable=ArmCounts(Calls(1_000.0), Histogram((1.0,), (900.0, 0.0))))
    assert contradictions((before, other)) == ("the bounds of stable's latency buckets changed",)


def test_what_is_unknown_is_told(look: Callable[..., Look]) -> None:
    """A missing arm and counts that are not numbers are named."""
    one = look(100, 1)
    assert unknown(one) == ()
    assert unknown(replace(one, canary=None)) == ("nothing is known of canary",)
    nan = replace(one.stable, calls=Calls(math.nan, failed=math.inf))
    assert unknown(replace(one, stable=nan)) == ("stable has no number for succeeded, failed",)
