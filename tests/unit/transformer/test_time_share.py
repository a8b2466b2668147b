from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer import time_share
from transformer.time_share import RESERVE_S, predictor_deadline_s

NOW_S = 1000.0


def _share_s(left_s: float, longest_s: float) -> float:
    """What the predictor gets of so much time."""
    with patch.object(time_share.time, "monotonic", return_value=NOW_S):
        return predictor_deadline_s(NOW_S + left_s, longest_s) - NOW_S


@given(left_s=st.floats(0.001, 3600.0), longest_s=st.floats(0.001, 600.0))
def test_the_predictor_ends_before_the_request(left_s: float, longest_s: float) -> None:
    """Its share ends before the request does, takes three quarters of its time at least, and no longer than allowed."""
    share_s = _share_s(left_s, longest_s)
    assert 0.0 < share_s < left_s
    assert share_s <= longest_s + 1e-9
    assert share_s >= min(longest_s, 0.75 * left_s) - 1e-9
    assert share_s >= min(longest_s, left_s - RESERVE_S) - 1e-9


@pytest.mark.parametrize(
    ("left_s", "share_s"), [(0.2, 0.18), (0.08, 0.06), (0.008, 0.006), (30.0, 10.0), (-1.0, -0.75)]
)
def test_ordinary_budgets(left_s: float, share_s: float) -> None:
    """Of 200 ms the predictor gets 180, of 80 ms 60, of 8 ms 6; of half a minute its own ten seconds; of none none."""
    assert _share_s(left_s, 10.0) == pytest.approx(share_s)
