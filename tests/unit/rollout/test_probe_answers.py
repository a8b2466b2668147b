from __future__ import annotations

import json

import numpy as np
import pytest
from pyproj import Geod

from rollout.probe_answers import ServedAnswers, answers_from_json, answers_to_json, compared, judged, within
from rollout.probe_evidence import unanswered_captures
from rollout.probe_set import ProbeSet

WGS84 = Geod(ellps="WGS84")


def _moved(place_deg: tuple[float, float], azimuth_deg: float, distance_m: float) -> list[float]:
    longitude, latitude, _ = WGS84.fwd(place_deg[1], place_deg[0], azimuth_deg, distance_m)
    return [latitude, longitude]


def _served(position_deg: list[list[float]], ellipse: tuple[float, float, float]) -> ServedAnswers:
    count = len(position_deg)
    return ServedAnswers(
        np.array(position_deg),
        np.tile(np.diag([1e8, 4e8]), (count, 1, 1)),
        np.tile(ellipse, (count, 1)),
        np.full(count, 0.5),
        (0.5, 1.0),
    )


def _set(truth_deg: list[list[float]]) -> ProbeSet:
    count = len(truth_deg)
    return ProbeSet(
        "sha256:0", "", (0.5, 0.95), np.array(truth_deg), np.arange(count), np.full(count, -50.0), (7, 4_480), ()
    )


@pytest.mark.parametrize(("bearing_deg", "inside"), [(30.0, True), (210.0, True), (120.0, False), (75.0, False)])
def test_ellipses_have_a_direction(bearing_deg: float, *, inside: bool) -> None:
    """A point at nine tenths of the major axis is in the ellipse along that axis alone."""
    bearing = np.deg2rad(bearing_deg)
    offset = 9_000.0 * np.array([[np.sin(bearing), np.cos(bearing)]])
    assert within(offset, np.array([[10_000.0, 2_000.0, 30.0]])).tolist() == [inside]


def test_errors_are_the_truth_as_seen_from_the_answer() -> None:
    """East and north in metres, and in the ellipse of each level where it is: the smaller level's is smaller."""
    answers = [_moved((45.0, 7.0), 270.0, 6_000.0), _moved((45.0, 7.0), 270.0, 3_000.0)]
    found = judged(_served(answers, (10_000.0, 8_000.0, 90.0)), np.array([[45.0, 7.0], [45.0, 7.0]]))
    assert found.error_m == pytest.approx(np.array([[6_000.0, 0.0], [3_000.0, 0.0]]), abs=10.0)
    assert found.inside.tolist() == [[False, True], [True, True]]


def test_disagreement_is_mutual() -> None:
    """Two answers disagree when neither ellipse holds the other's centre; the distance is the geodesic's."""
    truth = [[45.0, 7.0]] * 3
    stable = _served(truth, (10_000.0, 10_000.0, 0.0))
    canary = _served([_moved((45.0, 7.0), 45.0, d) for d in (5_000.0, 15_000.0, 30_000.0)], (20_000.0, 20_000.0, 0.0))
    probed = compared(_set(truth), stable, canary)
    assert probed.places.outside.tolist() == [False, False, True]
    assert (probed.disagreement.captures, probed.disagreement.outside) == (3, 1)
    assert probed.disagreement.median_m == pytest.approx(15_000.0, abs=0.1)
    assert probed.results.levels == (0.5, 0.95)


def test_what_is_not_answered_is_not_compared() -> None:
    """NaN is an unanswered capture for the judgement, and no disagreement."""
    truth = [[45.0, 7.0], [45.0, 7.0]]
    stable = _served(truth, (10_000.0, 10_000.0, 0.0))
    canary = _served([[np.nan, np.nan], [45.0, 7.0]], (10_000.0, 10_000.0, 0.0))
    probed = compared(_set(truth), stable, canary)
    assert unanswered_captures(probed.results.canary) == 1
    assert (probed.disagreement.captures, probed.disagreement.outside, probed.disagreement.median_m) == (1, 0, 0.0)
    nothing = compared(_set(truth), stable, _served([[np.nan, np.nan]] * 2, (np.nan, np.nan, np.nan)))
    assert nothing.disagreement.captures == 0


def test_json_round_trip() -> None:
    """Answers survive being printed by a job, bit for bit, missing ones included."""
    rng = np.random.default_rng(3)
    served = ServedAnswers(*(rng.normal(size=(4, *shape)) for shape in ((2,), (2, 2), (3,), ())), (0.3, 1.0))
    served.position_deg[1] = np.nan
    back = answers_from_json(answers_to_json(served))
    for name in ("position_deg", "covariance_m2", "ellipse", "confidence"):
        assert np.array_equal(getattr(back, name), getattr(served, name), equal_nan=True)
    assert back.scales == served.scales


@pytest.mark.parametrize(
    "text", ["3", "{", "{}", json.dumps({"scales": [], "answers": [[1]]}), json.dumps({"scales": [], "answers": []})]
)
def test_other_texts_are_no_answers(text: str) -> None:
    """What a job printed instead of answers is refused."""
    with pytest.raises(ValueError, match=r".+"):
        answers_from_json(text)
