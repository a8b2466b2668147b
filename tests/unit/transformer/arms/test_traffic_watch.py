from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from transformer import traffic_watch
from transformer.kubernetes_api import Cluster, InferenceServiceApi, Seen
from transformer.traffic_watch import Snapshot, TrafficWatch, WatchState, backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import ApiServer, Until

Steps = dict[str, dict[str, Any]]
URL = "http://loc-predictor.radio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order of events in less time."""
    monkeypatch.setattr(traffic_watch, "_FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(traffic_watch, "_FORBIDDEN_BACKOFF_S", 0.04)
    monkeypatch.setattr(traffic_watch, "_RELIST_PAUSE_S", 0.01)
    monkeypatch.setattr(traffic_watch, "_SHORTEST_WATCH_S", 0.0)


@pytest.fixture
async def watch(cluster: Cluster) -> AsyncIterator[TrafficWatch]:
    """A watch on `api` that has not started."""
    source = InferenceServiceApi(cluster, "loc", request_timeout_s=10.0, watch_s=30)
    running = TrafficWatch(URL, source)
    yield running
    await running.close()


@pytest.fixture
def steps(rollout: list[dict[str, Any]]) -> Steps:
    """The real rollout by resource version."""
    return {item["metadata"]["resourceVersion"]: item for item in rollout}


def percents(watch: TrafficWatch) -> list[int]:
    """The shares, stable first."""
    return [arm.percent for arm in watch.arms.candidates]


async def test_first_news_before_the_first_request(api: ApiServer, watch: TrafficWatch, steps: Steps) -> None:
    """Once `start` returns, the arms are those of the cluster; a second start changes nothing."""
    api.objects = [steps["5120"]]
    await watch.start()
    await watch.start()
    assert percents(watch) == [90, 10]
    assert watch.snapshot.state is WatchState.WATCHING


async def test_rollback_is_visible(api: ApiServer, watch: TrafficWatch, steps: Steps, until: Until) -> None:
    """A withdrawal in the status reaches the next draw, and so does the end of the canary."""
    api.objects = [steps["5120"]]
    await watch.start()
    api.send("MODIFIED", steps["5178"])
    await until(lambda: percents(watch) == [100, 0])
    api.send("MODIFIED", steps["5341"])
    await until(lambda: percents(watch) == [100])
    api.send("DELETED", steps["5341"])
    await until(lambda: watch.arms.stable.revision == "")


async def test_watch_goes_on_from_the_last_version(
    api: ApiServer, watch: TrafficWatch, steps: Steps, until: Until
) -> None:
    """A watch that ends as asked is followed by one from the last version, a bookmark's too, without another list."""
    api.objects = [steps["5120"]]
    await watch.start()
    api.send("MODIFIED", steps["5178"])
    api.send("BOOKMARK", {"metadata": {"resourceVersion": "5999"}})
    api.hang_up()
    await until(lambda: api.watches == 2)
    assert [request.query.get("resourceVersion") for request in api.requests] == [None, "1", "5999"]
    assert watch.snapshot.state is WatchState.WATCHING


async def test_a_watch_that_died_without_a_word(api: ApiServer, cluster: Cluster, steps: Steps, until: Until) -> None:
    """A server that neither tells nor closes is believed for a watch's time, and then the object is listed anew."""
    watch = TrafficWatch(URL, InferenceServiceApi(cluster, "loc", request_timeout_s=1.0, watch_s=0))
    api.objects = [steps["5120"]]
    await watch.start(timeout_s=10.0)
    await until(lambda: api.watches == 1)
    api.objects = [steps["5182"]]  # of which the open watch says nothing
    await until(lambda: percents(watch) == [100, 0])
    await watch.close()


async def test_expired_version(api: ApiServer, watch: TrafficWatch, steps: Steps, until: Until) -> None:
    """After 410 Gone the object is listed again, and what was missed is seen."""
    api.objects = [steps["5120"]]
    await watch.start()
    api.objects = [steps["5341"]]
    api.send("ERROR", {"kind": "Status", "code": 410})
    await until(lambda: percents(watch) == [100])
    assert watch.snapshot.state is WatchState.WATCHING


async def test_away_and_back(api: ApiServer, watch: TrafficWatch, steps: Steps, until: Until) -> None:
    """While the API server is away the last arms stay and are called stale; once it is back they are renewed."""
    api.objects = [steps["5120"]]
    await watch.start()
    api.refuse_with = 500
    api.hang_up()
    await until(lambda: watch.snapshot.state is WatchState.STALE)
    since_s = watch.snapshot.since_s
    await until(lambda: len(api.requests) > 4)
    assert percents(watch) == [90, 10]
    assert watch.snapshot.since_s == since_s
    api.refuse_with, api.objects = None, [steps["5182"]]
    await until(lambda: watch.snapshot.state is WatchState.WATCHING)
    assert percents(watch) == [100, 0]


async def test_forbidden(
    api: ApiServer,
    watch: TrafficWatch,
    steps: Steps,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without permission there is one arm, said once in the log; a Role that comes later is noticed."""
    api.refuse_with = 403
    with caplog.at_level(logging.WARNING):
        await watch.start()
        await until(lambda: len(api.requests) > 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (watch.snapshot.state, percents(watch), watch.arms.stable.base_url) == (WatchState.FORBIDDEN, [100], URL)
    api.refuse_with, api.objects = None, [steps["5120"]]
    await until(lambda: percents(watch) == [90, 10])


async def test_malformed_object(api: ApiServer, watch: TrafficWatch, steps: Steps, until: Until) -> None:
    """An object that cannot be read at all leaves the arms as they are, and the watch alive."""
    api.objects = [steps["5120"]]
    await watch.start()
    api.send("MODIFIED", {"metadata": {"resourceVersion": "3"}, "status": []})
    await until(lambda: watch.snapshot.state is WatchState.STALE)
    assert percents(watch) == [90, 10]
    await until(lambda: watch.snapshot.state is WatchState.WATCHING)


async def test_watch_that_ends_at_once(
    api: ApiServer,
    watch: TrafficWatch,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that ends every watch at once is not asked in a loop."""
    monkeypatch.setattr(traffic_watch, "_SHORTEST_WATCH_S", 60.0)
    api.hang_up()
    await watch.start()
    await until(lambda: watch.snapshot.state is WatchState.STALE)


async def test_missing_tags_are_reported_once(
    api: ApiServer,
    watch: TrafficWatch,
    steps: Steps,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The missing annotation is in the state, and once in the log however often the object changes."""
    api.objects = [steps["5677"]]
    with caplog.at_level(logging.WARNING):
        await watch.start()
        api.send("MODIFIED", steps["5681"])
        api.send("BOOKMARK", {"metadata": {"resourceVersion": "5999"}})
        api.hang_up()
        await until(lambda: api.watches == 2)
    assert "enable-tag-routing" in str(watch.snapshot.warning)
    assert len(caplog.records) == 1


async def test_off() -> None:
    """Outside of a cluster there is one arm, and that is told too."""
    told: list[Snapshot] = []
    watch = TrafficWatch(URL, None, changed=told.append)
    await watch.start()
    await watch.close()
    assert [(snapshot.state, snapshot.arms.stable.base_url) for snapshot in told] == [(WatchState.OFF, URL)]
    assert watch.snapshot.describe() == "off"


async def test_slow_api_does_not_hold_the_start(cluster: Cluster, api: ApiServer) -> None:
    """A start waits for the first news only so long."""

    class Never(InferenceServiceApi):
        async def find(self) -> Seen:
            seen = await super().find()
            await asyncio.Event().wait()
            return seen

    watch = TrafficWatch(URL, Never(cluster, "loc"))
    await watch.start(timeout_s=0.5)
    assert watch.snapshot.state is WatchState.OFF
    assert len(api.requests) == 1
    await watch.close()


def test_stale_is_described_with_its_age() -> None:
    """People read how old the arms are."""
    snapshot = TrafficWatch(URL, None).snapshot
    stale = replace(snapshot, state=WatchState.STALE, since_s=time.monotonic() - 12)
    assert stale.describe() == "stale for 12 s"


def test_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubling from half a second to ten, at least half of it, never more, for any number of failures."""
    monkeypatch.undo()
    assert [backoff_s(failures, 1.0) for failures in (0, 1, 2, 10)] == [0.5, 1.0, 2.0, 10.0]
    assert [backoff_s(failures, 0.0) for failures in (0, 10_000)] == [0.25, 5.0]
