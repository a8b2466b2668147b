from __future__ import annotations

import pytest

from transformer.settling import Settling


@pytest.mark.parametrize(
    ("first_s", "now_s", "over"),
    [(0.0, 9.9, False), (0.0, 10.0, True), (5.0, 10.0, False), (5.0, 15.0, True), (100.0, 100.0, False)],
)
def test_both_have_to_settle(first_s: float, now_s: float, over: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Ten seconds have to pass after the process began, and after the first call of that revision."""
    clock = [0.0]
    settling = Settling(10.0, lambda: clock[0])
    clock[0] = first_s
    settling.over("r-1")
    clock[0] = now_s
    assert settling.over("r-1") is over
    assert settling.over("r-2") is False


def test_nothing_is_left_out_on_request() -> None:
    """With no time to settle the first call counts."""
    assert Settling(0.0).over("r-1")
