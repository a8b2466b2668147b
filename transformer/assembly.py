"""The parts of a transformer, put together by its settings.

What belongs here: which implementation is taken, and what is closed at the end. What does not: the server around it
(`__main__`) and anything that a part does.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from transformer.answer_cache import AnswerCache
from transformer.described_model import ModelDirectory
from transformer.errors import InvalidModelOutput
from transformer.kubernetes_api import InferenceServiceApi, in_cluster
from transformer.memory_store import MemoryStore
from transformer.metrics import Metrics
from transformer.mlflow_server import MlflowServer
from transformer.model import LocalizationTransformer
from transformer.observed import Observed
from transformer.predictor_client import PredictorClient
from transformer.redis_address import RedisAddress, parse_redis_url
from transformer.redis_store import RedisStore
from transformer.registry_aliases import RegistryAliases
from transformer.repeats import Repeats
from transformer.restart_wait import RestartWait
from transformer.retry_budget import RetryBudget
from transformer.settling import Settling
from transformer.traffic_watch import TrafficWatch
from transformer.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformer.answer_store import AnswerStore
    from transformer.settings import Settings


class Assembly:
    """A transformer and everything behind it. At most one in a process, because metrics are the process's.

    Args:
        settings: Which parts.
        environ: Says whether this is a pod of a cluster, and holds the registry's credentials.

    Attributes:
        model: Does the work.
        aliases: What the registry calls the served version.

    Raises:
        BadSettings: The address of Redis cannot be read, or the file with the registry's certificate authorities.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        metrics = Metrics()
        observed = Observed(metrics)
        cluster = in_cluster(environ) if settings.inference_service else None
        source = InferenceServiceApi(cluster, settings.inference_service) if cluster else None
        self._client = PredictorClient(
            settings.model_name,
            connect_timeout_s=settings.connect_timeout_s,
            metadata_timeout_s=settings.metadata_timeout_s,
        )
        self._restart = RestartWait(self._client.ready, longest_s=settings.predictor_restart_s)
        self._watch = TrafficWatch(settings.arm.base_url, source, changed=metrics.traffic)
        self._cache = AnswerCache(
            answer_store(settings),
            observe=observed.cache_event,
            shared_errors=(InvalidModelOutput,),
            repeats=Repeats(settings.cache_ttl_s, metrics.cache_repeat),
        )
        metrics.cache_up(lambda: self._cache.store_answers)
        self.aliases = registry_aliases(settings, environ)
        self.model = LocalizationTransformer(
            settings=settings,
            client=self._client,
            models=ModelDirectory(self._client),
            watch=self._watch,
            upstream=Upstream(
                self._client,
                RetryBudget(),
                metrics,
                max_calls=settings.max_calls,
                settling=Settling(settings.settling_s),
                restart=self._restart,
            ),
            cache=self._cache,
            observed=observed,
        )

    async def run(self) -> None:
        """Watch the traffic until cancelled; then close every connection."""
        async with AsyncExitStack() as parts:
            for part in (self._client, self._restart, self._cache, self._watch, self.aliases):
                parts.push_async_callback(part.close)
            await self._watch.start()
            await asyncio.Event().wait()


def answer_store(settings: Settings) -> AnswerStore:
    """Where answers are kept: the shared Redis, or the memory of this process."""
    if settings.redis_url:
        address = parse_redis_url(settings.redis_url, settings.redis_password)
    elif settings.redis_host:
        address = RedisAddress(
            host=settings.redis_host, port=settings.redis_port, db=settings.redis_db, password=settings.redis_password
        )
    else:
        return MemoryStore(max_bytes=settings.cache_max_bytes, ttl_s=settings.cache_ttl_s)
    return RedisStore(address, ttl_s=settings.cache_ttl_s, read_timeout_s=settings.cache_timeout_s)


def registry_aliases(settings: Settings, environ: Mapping[str, str]) -> RegistryAliases:
    """Asks the registry, if there is one."""
    if not settings.mlflow_tracking_uri:
        return RegistryAliases(None)
    return RegistryAliases(MlflowServer(settings.mlflow_tracking_uri, settings.registered_model, environ).aliases)
