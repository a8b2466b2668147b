from __future__ import annotations

import numpy as np
import pytest
from flatness import BLOCKS, slope
from measured import growth_of
from processes import Usage


def _samples(per_hour: float, seed: int, *, correlated: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Half an hour, a sample every 5 s, with noise of 2."""
    at_s = np.arange(0.0, 1800.0, 5.0)
    noise = np.random.default_rng(seed).normal(scale=2.0, size=len(at_s))
    if correlated:
        noise = np.convolve(noise, np.exp(-np.arange(12) / 4.0))[: len(at_s)]
    return at_s, 250.0 + per_hour * at_s / 3600.0 + noise


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("per_hour", [0.0, 7.0])
def test_the_interval_holds_the_slope_as_often_as_it_says(per_hour: float, *, correlated: bool) -> None:
    """Of 200 runs about 95 % have the true slope in their interval, also where neighbouring samples are alike."""
    held = 0
    for seed in range(200):
        found = slope(*_samples(per_hour, seed, correlated=correlated))
        held += found.lower_per_hour <= per_hour <= found.upper_per_hour
    assert 0.88 * 200 < held <= 200


def test_the_beginning_does_not_count() -> None:
    """Buffers that reach their size in the first minutes are no growth."""
    at_s, values = _samples(0.0, 1)
    values[at_s < 300] -= 100.0
    assert abs(slope(at_s, values).per_hour) < 5.0


def test_what_never_changes_is_flat() -> None:
    """A number of descriptors that stays the same has the slope zero, for certain."""
    found = slope(list(range(100)), [20.0] * 100)
    assert (found.lower_per_hour, found.upper_per_hour, found.mean) == pytest.approx((0.0, 0.0, 20.0), abs=1e-9)


def test_too_few_samples_are_refused() -> None:
    """A bound from a handful of samples would mean nothing."""
    with pytest.raises(ValueError, match=f"too few for {BLOCKS} blocks"):
        slope(list(range(BLOCKS)), [1.0] * BLOCKS)


@pytest.mark.parametrize(("leak_bytes", "leak_files", "flat"), [(0, 0, True), (50e6, 0, False), (0, 1, False)])
def test_a_leak_is_seen(leak_bytes: float, leak_files: int, *, flat: bool) -> None:
    """A part that loses 50 MB an hour, or a single descriptor, is not flat; one with noise alone is."""
    at_s, noise = _samples(0.0, 3)
    taken = [
        Usage(at, 0.0, int(250e6 + 1e5 * one + leak_bytes * at / 3600), 30)
        for at, one in zip(at_s, noise - 250.0, strict=True)
    ]
    before, after = Usage(0.0, 0.0, 0, 20), Usage(1890.0, 0.0, 0, 20 + leak_files)
    assert growth_of("predictor", before, taken, after).flat is flat
