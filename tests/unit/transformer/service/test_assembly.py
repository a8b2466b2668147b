from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from transformer import assembly as module
from transformer.assembly import Assembly, answer_store, registry_aliases
from transformer.errors import BadSettings
from transformer.kubernetes_api import Cluster
from transformer.memory_store import MemoryStore
from transformer.redis_store import RedisStore
from transformer.settings import Settings
from transformer.traffic_watch import WatchState

if TYPE_CHECKING:
    from pathlib import Path


def _settings(**members: object) -> Settings:
    return Settings(predictor_host="127.0.0.1:1", **members)  # type: ignore[arg-type]  # of any type


def test_the_store_follows_the_settings() -> None:
    """Redis where there is one, by URL or by host; else the process's own memory. A URL without sense is refused."""
    assert isinstance(answer_store(_settings()), MemoryStore)
    assert isinstance(answer_store(_settings(redis_host="redis")), RedisStore)
    assert isinstance(answer_store(_settings(redis_url="rediss://redis/3")), RedisStore)
    with pytest.raises(BadSettings):
        answer_store(_settings(redis_url="http://redis"))


async def test_the_registry_follows_the_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without one nobody is asked; with one it is, by what the environment says of it."""
    without, named = registry_aliases(_settings(), {}), _settings(mlflow_tracking_uri="https://127.0.0.1:1")
    asked = registry_aliases(named, {})
    assert [await one.of("1", 5.0) for one in (without, asked)] == [None, None]
    assert len(caplog.records) == 1
    with pytest.raises(BadSettings):
        registry_aliases(named, {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(tmp_path / "none")})


@pytest.mark.usefixtures("process_metrics")
async def test_outside_of_a_cluster_there_is_one_arm() -> None:
    """Without a cluster the watch stays off, and everything is closed at the end."""
    assembly = Assembly(_settings(inference_service="loc"), {})
    running = asyncio.create_task(assembly.run())
    await asyncio.sleep(0)
    assert not await assembly.model.server_ready()
    assert [arm.base_url for arm in assembly.model.arms.candidates] == ["http://127.0.0.1:1"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.usefixtures("process_metrics")
async def test_in_a_cluster_the_service_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cluster and a name the watch begins; that the API server is away does not end it."""
    (tmp_path / "token").write_text("t")
    cluster = Cluster("http://127.0.0.1:1", "radio", tmp_path / "token", tmp_path / "ca.crt")
    monkeypatch.setattr(module, "in_cluster", lambda _: cluster)
    assembly = Assembly(_settings(inference_service="loc"), {})
    running = asyncio.create_task(assembly.run())
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if assembly._watch.snapshot.state is WatchState.STALE:  # noqa: SLF001 - shown by /metrics only
            break
    assert assembly._watch.snapshot.state is WatchState.STALE  # noqa: SLF001 - nothing else shows it before a request
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.usefixtures("process_metrics")
def test_only_a_named_service_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name nobody looks for a cluster."""
    monkeypatch.setattr(module, "in_cluster", lambda _: pytest.fail("looked"))
    Assembly(_settings(), {})
