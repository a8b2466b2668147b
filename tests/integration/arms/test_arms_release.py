"""A canary release as clients see it: the split, hits included; sessions, pinned versions, rollback and death."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Body, Release

    from reference.simulate import Captures

    BodyOf = Callable[..., Body]

CANARY_REVISION = "loc-predictor-00002"


def test_the_split_is_exact_with_hits(
    release: Release, drawn: Captures, body_of: BodyOf, record_property: Callable[[str, object], None]
) -> None:
    """Of 10,000 requests, nearly all of them hits, the canary answers 20 ± 1 %, each arm with its own version."""
    bodies = [body_of(iq[None], session_id="session-{}") for iq in drawn.iq[:4]]
    total = 10_000

    def body(number: int) -> Body | None:
        if number >= total:
            return None
        text, size = bodies[number % len(bodies)]
        session = f"session-{number:06d}".encode()
        return text[:size].replace(b"session-{}", session) + text[size:], size + len(session) - len(b"session-{}")

    told = release.clients(body)
    record_property("share of the canary, hits included", told.arms["canary"] / total)
    assert told.failures == []
    assert len(told.said) == total
    assert told.hits > 0.99 * total
    assert abs(told.arms["canary"] / total - 0.20) < 0.01
    assert {(arm, version) for _, arm, version in told.said} == {("stable", "1"), ("canary", "2")}


def test_without_a_session_chance_decides(
    release: Release, drawn: Captures, body_of: BodyOf, record_property: Callable[[str, object], None]
) -> None:
    """The share is the same without sessions (20 %; chance alone leaves these bounds once in 5,000,000 times)."""
    body, total = body_of(drawn.iq[:1]), 10_000
    told = release.clients(lambda number: body if number < total else None)
    assert told.failures == []
    record_property("share of the canary, without sessions", told.arms["canary"] / total)
    assert 1_792 <= told.arms["canary"] <= 2_208


def test_sessions_are_sticky(release: Release, drawn: Captures) -> None:
    """A session meets one version, whatever it asks; hits and misses alike."""
    met = {
        session: {
            release.transformer.infer(drawn.iq[index : index + 1], session_id=session).model_version
            for index in (0, 5, 0)
        }
        for session in map(str, range(20))
    }
    assert {len(versions) for versions in met.values()} == {1}
    assert set.union(*met.values()) == {"1", "2"}


def test_a_version_in_the_url_pins_the_arm(release: Release, drawn: Captures, body_of: BodyOf) -> None:
    """Either version can be had whatever the draw, at 0 percent too; a third one is 404."""
    body = body_of(drawn.iq[6:7])
    for percent in (20, 0):
        release.show(percent)
        for version in ("1", "2"):
            told = release.clients(lambda number: body if number < 20 else None, f"/versions/{version}")
            assert {said for _, _, said in told.said} == {version}
    release.show(20)
    refused = release.clients(lambda number: body if number < 1 else None, "/versions/3")
    assert refused.failures[0][0] == 404  # type: ignore[index]  # a status and a body
    assert release.api.tokens == {"Bearer a-token"}


def test_both_arms_are_counted(release: Release, drawn: Captures, body_of: BodyOf) -> None:
    """Calls are counted per arm and revision, hits are no calls."""
    before = {arm: release.upstream(arm, "200") for arm in ("stable", "canary")}
    plain, cached = body_of(drawn.iq[7:8], cache=False), body_of(drawn.iq[:1])
    told = release.clients(lambda number: plain if number < 100 else None)
    release.clients(lambda number: cached if number < 100 else None)
    after = {arm: release.upstream(arm, "200") for arm in ("stable", "canary")}
    assert {arm: after[arm] - before[arm] for arm in after} == dict(told.arms)
    assert f'revision="{CANARY_REVISION}"' in release.metrics()


def test_nothing_of_a_withdrawn_canary_leaves(release: Release, drawn: Captures, body_of: BodyOf) -> None:
    """Under load with hits: once the rollback is seen, no request is answered by the canary, be it from the cache."""
    stop = threading.Event()
    bodies = [body_of(drawn.iq[:1]), body_of(drawn.iq[1:2]), body_of(drawn.iq[2:3], cache=False)]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(release.clients, lambda number: None if stop.is_set() else bodies[number % 3])
        try:
            time.sleep(1.0)
            release.show(0)
            withdrawn_s = time.monotonic()
            time.sleep(1.0)
        finally:
            stop.set()
        told = load.result(30)
    release.show(20)
    assert told.failures == []
    late = Counter(arm for began_s, arm, _ in told.said if began_s > withdrawn_s)
    assert late["stable"] > 20
    assert late["canary"] == 0
    assert told.arms["canary"] > 5


def test_a_canary_that_dies_costs_nobody_anything(own_release: Release, drawn: Captures, body_of: BodyOf) -> None:
    """SIGKILL of the canary under load: no request fails, the stable arm answers, and the canary is blamed.

    What the canary had answered before is still known, bit for bit.
    """
    ask = own_release.transformer.infer
    session = next(name for name in map(str, range(99)) if ask(drawn.iq[:1], session_id=name).model_version == "2")
    known = ask(drawn.iq[:1], session_id=session)
    stop = threading.Event()
    body = body_of(drawn.iq[:1], cache=False)
    own_release.clients(lambda number: body if number < 20 else None)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(own_release.clients, lambda _: None if stop.is_set() else body)
        try:
            time.sleep(1.5)
            own_release.canary.process.send_signal(signal.SIGKILL)
            own_release.canary.process.wait()
            killed_s = time.monotonic()
            time.sleep(1.5)
        finally:
            stop.set()
        told = load.result(30)
    assert told.failures == []
    late = Counter(arm for began_s, arm, _ in told.said if began_s > killed_s)
    assert late["stable"] > 20
    assert late["canary"] == 0
    assert told.arms["canary"] > 5
    assert own_release.upstream("canary", "unreachable") > 0
    assert own_release.upstream("stable", "unreachable") == 0
    hit = ask(drawn.iq[:1], session_id=session)
    assert (hit.parameters["arm"], hit.parameters["cached"]) == ("canary", "[true]")
    for name in ("position", "covariance", "ellipse"):
        assert hit.output(name).array.tobytes() == known.output(name).array.tobytes()
