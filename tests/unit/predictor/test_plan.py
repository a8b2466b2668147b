from hypothesis import given
from hypothesis import strategies as st

from predictor.plan import InlineRuns, Plan, plan_for

TIMES = st.dictionaries(st.integers(1, 64), st.floats(1e-6, 10), max_size=5)


def _plan(run_s: dict[int, float], **options: object) -> Plan:
    settings = {"independent": True, "bounded": True, "max_rows": 16, "inline_limit_s": 0.0} | options
    return plan_for(run_s, **settings)  # type: ignore[arg-type]  # the defaults above, some replaced


def test_batching_where_it_pays() -> None:
    """A batch of 16 that costs less than 4 single runs is used; one that costs as much as 16 is not."""
    assert _plan({1: 0.010, 16: 0.035}) == Plan(max_rows=16)
    assert _plan({1: 0.010, 16: 0.150}) == Plan(max_rows=1)


def test_no_batching_on_doubt() -> None:
    """Rows that mix, a batch that was not measured, and a limit of one item: no batches."""
    assert _plan({1: 0.010, 16: 0.020}, independent=False).max_rows == 1
    assert _plan({1: 0.010, 8: 0.020}).max_rows == 1
    assert _plan({16: 0.020}).max_rows == 1
    assert _plan({1: 0.010}, max_rows=1).max_rows == 1


def test_short_runs_stay_in_the_loop() -> None:
    """The largest batch that was measured within the limit, if the cost is known to follow from the shapes."""
    run_s = {1: 50e-6, 2: 80e-6, 8: 400e-6}
    assert _plan(run_s, inline_limit_s=200e-6).inline_rows == 2
    assert _plan(run_s, inline_limit_s=200e-6, bounded=False).inline_rows == 0
    assert _plan(run_s, inline_limit_s=40e-6).inline_rows == 0
    assert _plan({}, inline_limit_s=200e-6).inline_rows == 0


@given(TIMES, st.floats(0, 1), st.fixed_dictionaries({"bounded": st.booleans(), "independent": st.booleans()}))
def test_never_inline_beyond_what_was_measured(
    run_s: dict[int, float], limit_s: float, properties: dict[str, bool]
) -> None:
    """Whatever was measured: what runs in the loop was seen to stay within the limit."""
    plan = _plan(run_s, inline_limit_s=limit_s, **properties)
    assert plan.inline_rows == 0 or run_s[plan.inline_rows] <= limit_s
    assert plan.max_rows in {1, 16}


def test_runs_that_take_longer_after_all() -> None:
    """Three excessive runs in a row end it for good; a single one, as when the process is not scheduled, does not."""
    runs = InlineRuns(2, 200e-6)
    assert [runs.took(seconds) for seconds in (1.0, 1.0, 100e-6, 1.0, 1.0)] == [True] * 5
    assert runs.rows == 2
    assert not runs.took(1.0)
    assert runs.rows == 0


def test_what_may_run_in_the_loop() -> None:
    """Requests up to the measured size; none, not even an empty one, where nothing may."""
    assert [InlineRuns(2, 1e-3).allow(rows) for rows in (0, 1, 2, 3)] == [True, True, True, False]
    assert [InlineRuns(0, 1e-3).allow(rows) for rows in (0, 1)] == [False, False]
