from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transformer.arms import Arm, Arms

REQUESTS = 20_000


def split(percent: int, revision: str = "loc-00002") -> Arms:
    """A canary with this share."""
    return Arms(Arm("stable", "http://s", 100 - percent, "loc-00001"), Arm("canary", "http://c", percent, revision))


@pytest.mark.parametrize("percent", [1, 10, 20, 50, 99])
@pytest.mark.parametrize("sticky", [True, False], ids=["sessions", "random"])
def test_split_is_exact(percent: int, *, sticky: bool) -> None:
    """The canary gets its share of requests and of sessions, within what a fair coin does (binomial, 1 in 10,000)."""
    arms, source = split(percent), np.random.default_rng(5)
    drawn = sum(
        arms.draw(f"session-{index}" if sticky else None, float(source.random())).name == "canary"
        for index in range(REQUESTS)
    )
    low, high = stats.binom.interval(1 - 1e-4, REQUESTS, percent / 100)
    assert low <= drawn <= high


def test_sessions_are_uniform() -> None:
    """Sessions fall evenly on all hundred percent, also when their names are nearly alike (chi-square)."""
    bins = [0] * 100
    for index in range(REQUESTS):
        low, high = 0, 100
        while high - low > 1:  # the smallest share at which the session is on the canary
            middle = (low + high) // 2
            low, high = (low, middle) if split(middle).draw(f"u{index}", 0.0).name == "canary" else (middle, high)
        bins[low] += 1
    assert stats.chisquare(bins).pvalue > 1e-4


@given(session=st.text(), growth=st.lists(st.integers(0, 100), min_size=2))
def test_sessions_only_move_to_a_growing_canary(session: str, growth: list[int]) -> None:
    """While the share grows, no session that has met the canary goes back."""
    met = [split(percent).draw(session, 0.0).name == "canary" for percent in sorted(growth)]
    assert met == sorted(met)


@given(session=st.text(st.characters()), percent=st.integers(0, 100), first=st.floats(0, 1, exclude_max=True))
def test_session_ignores_chance(session: str, percent: int, first: float) -> None:
    """The same session meets the same arm whatever the dice say, lone surrogates and the empty name included."""
    assert split(percent).draw(session, first) == split(percent).draw(session, 1.0 - 2**-53)


def test_draw_of_sessions_is_the_same_everywhere() -> None:
    """The position is that of the documented hash, so that every process and every release draws alike."""
    salt = hashlib.blake2b(b"loc-00002", digest_size=16).digest()
    digest = hashlib.blake2b(b"abc", digest_size=8, salt=salt).digest()
    position = int.from_bytes(digest, "big") / 2**64
    percent = int(position * 100)
    assert split(percent).draw("abc", 0.0).name == "stable"
    assert split(percent + 1).draw("abc", 0.0).name == "canary"


def test_every_canary_meets_other_sessions() -> None:
    """Two canaries of 10 % share about 1 % of the sessions, not all of them."""
    both = sum(
        split(10).draw(f"{index}", 0.0).name == split(10, "loc-00009").draw(f"{index}", 0.0).name == "canary"
        for index in range(10_000)
    )
    low, high = stats.binom.interval(1 - 1e-4, 10_000, 0.01)
    assert low <= both <= high


@given(session=st.none() | st.text(), dice=st.floats(0, 1, exclude_max=True))
def test_extremes(session: str | None, dice: float) -> None:
    """At 0 % nothing is drawn for the canary, at 100 % everything; a single arm gets all."""
    assert split(0).draw(session, dice).name == "stable"
    assert split(100).draw(session, dice).name == "canary"
    assert Arms(Arm("stable", "http://s")).draw(session, dice).name == "stable"


def test_candidates_include_the_canary_at_zero() -> None:
    """A request can be pinned to a canary that is never drawn."""
    assert [arm.name for arm in split(0).candidates] == ["stable", "canary"]
    assert [arm.name for arm in Arms(Arm("stable", "http://s")).candidates] == ["stable"]


@pytest.mark.parametrize(("stable", "canary"), [(80, 10), (90, 20), (110, -10), (50, None)])
def test_shares_add_to_a_hundred(stable: int, canary: int | None) -> None:
    """Arms with shares that lose or invent requests cannot be made."""
    arm = Arm("stable", "http://s", stable)
    with pytest.raises(ValueError, match="do not add to 100"):
        Arms(arm, None if canary is None else replace(arm, percent=canary))
