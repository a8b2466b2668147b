from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.policy import Policy, PolicyError, policy_from_json, policy_from_toml

UNHURRIED = settings(deadline=None, max_examples=50)  # other tests may run on the same cores


def test_promised_defaults() -> None:
    """Steps, error probability and the size of the probe set are what the documentation promises."""
    policy = Policy()
    assert policy.steps_percent == (5, 25, 50)
    assert (policy.alpha, policy.beta) == (0.01, 0.01)
    assert policy.probe_captures >= 700


def test_nothing_given_gives_the_defaults() -> None:
    """An empty document is the default policy, in both languages."""
    assert policy_from_toml("") == policy_from_json("{}") == Policy()


def test_defaults_pass_their_own_checks() -> None:
    """Every default written out is read back as the same policy."""
    assert policy_from_json(json.dumps(asdict(Policy()))) == Policy()


def test_toml() -> None:
    """Settings are read with their types; a whole number is welcome where a fraction may stand."""
    policy = policy_from_toml("steps_percent = [10, 50]\nminimum_step_s = 60\nalpha = 0.02\nprobe_captures = 700")
    assert policy == Policy(steps_percent=(10, 50), minimum_step_s=60.0, alpha=0.02, probe_captures=700)
    assert isinstance(policy.minimum_step_s, float)


def test_everything_wrong_is_told_at_once() -> None:
    """One error lists every unknown name, type and range."""
    lines = [
        *("alfa = 1", 'alpha = "low"', "beta = 2", "minimum_calls = 1.5"),
        *("steps_percent = [50, 25]", "coverage_tolerance = true"),
    ]
    with pytest.raises(PolicyError) as caught:
        policy_from_toml("\n".join(lines))
    assert str(caught.value).splitlines() == [
        "unknown setting 'alfa'",
        "alpha is a number, not 'low'",
        "beta is 2, and has to be from 1e-06 to 0.2",
        "minimum_calls is a whole number, not 1.5",
        "steps_percent is a list of growing whole numbers from 1 to 99",
        "coverage_tolerance is a number, not True",
    ]


@pytest.mark.parametrize("steps", ["[]", "[0]", "[100]", "[5, 5]", "[5.0]", '["5"]', "5", "[true]"])
def test_steps_that_are_none(steps: str) -> None:
    """Steps grow, are whole and leave both arms some traffic."""
    with pytest.raises(PolicyError, match="steps_percent"):
        policy_from_json(f'{{"steps_percent": {steps}}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("allowed_error_increase = 0.02", "allowed_error_increase has to be below unacceptable_error_increase"),
        ("allowed_latency_ratio = 3", "allowed_latency_ratio has to be below unacceptable_latency_ratio"),
        ("maximum_step_s = 60", "minimum_step_s has to be below maximum_step_s"),
        ("probe_resamples = 999", "probe_resamples has to be at least 6500 for this alpha"),
        ("alpha =", "not TOML"),
    ],
)
def test_settings_that_do_not_fit_together(text: str, message: str) -> None:
    """Margins have to leave room between them, and the bootstrap has to reach its error probability."""
    with pytest.raises(PolicyError, match=message):
        policy_from_toml(text)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object"), ('{"alpha": NaN}', "alpha is nan")]
)
def test_json_that_is_no_policy(text: str, message: str) -> None:
    """What cannot be read is told as such, NaN included."""
    with pytest.raises(PolicyError, match=message):
        policy_from_json(text)


@UNHURRIED
@given(st.floats(0.001, 0.2), st.integers(1, 9))
def test_error_probabilities_add_to_alpha(alpha: float, steps: int) -> None:
    """Over all signals and steps the parts of alpha never add up to more than the whole (Bonferroni)."""
    policy = Policy(alpha=alpha, steps_percent=tuple(range(1, steps + 1)))
    spent = steps * (policy.error_test().alpha + policy.latency_test().alpha) + policy.probe_test().alpha
    assert spent == pytest.approx(alpha)
