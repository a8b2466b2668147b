"""A transformer in this process, in front of a predictor that is a Python object."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from oip.messages import CallContext, InferRequest, InferResponse, ModelMetadata, Tensor
from transformer.answer_cache import AnswerCache
from transformer.arms import Arm, Arms
from transformer.described_model import ModelDirectory, describe
from transformer.errors import InvalidModelOutput, PredictorRefused
from transformer.memory_store import MemoryStore
from transformer.metrics import Metrics
from transformer.mlflow_server import RegistryError
from transformer.model import LocalizationTransformer
from transformer.observed import Observed
from transformer.registry_aliases import RegistryAliases
from transformer.rest import RestApplication
from transformer.restart_wait import RestartWait
from transformer.retry_budget import RetryBudget
from transformer.settings import Settings
from transformer.settling import Settling
from transformer.traffic_watch import TrafficWatch
from transformer.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oip.http import ASGIApp, Header, Message, Scope
    from oip.messages import Array
    from transformer.described_model import DescribedModel


class Predictor:
    """Answers as the client of a real one would; serves one contract in one version.

    Attributes:
        document: The contract that it serves, as JSON members.
        error: Raised instead of an answer to inference.
        outputs: Answered instead of a position of its own, by name.
        requests: The requests that it has seen.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document: dict[str, Any] | None = document
        self.version = "3"
        self.is_ready = True
        self.error: Exception | None = None
        self.metadata_error: Exception | None = None
        self.outputs: dict[str, Array] = {}
        self.requests: list[tuple[InferRequest, CallContext]] = []
        self.metadata_calls = 0
        self.hold: asyncio.Event | None = None

    def described(self) -> ModelMetadata:
        """Its V2 metadata."""
        contract = {} if self.document is None else {"contract": json.dumps(self.document)}
        digest = f"sha256:{self.version}"
        return ModelMetadata("m", "onnx", (), (), (self.version,), {"model_digest": digest} | contract)

    async def metadata(self, _base_url: str) -> ModelMetadata:
        """See `PredictorClient`."""
        self.metadata_calls += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.metadata_error is not None:
            raise self.metadata_error
        return self.described()

    async def ready(self, _base_url: str) -> bool:
        """See `PredictorClient`."""
        return self.is_ready

    async def infer(self, _base_url: str, request: InferRequest, context: CallContext) -> InferResponse:
        """See `PredictorClient`; each item's position tells its place in the batch."""
        self.requests.append((request, context))
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        if request.parameters["contract_digest"] != describe(self.described()).contract.digest:
            raise PredictorRefused("another contract", status=409)
        items = len(request.inputs[0].array)
        outputs = {
            "position": np.stack([45.0 + np.arange(items) / 100.0, np.full(items, 8.0)], axis=-1),
            "uncertainty": np.tile(np.float32([3000.0, 1000.0, 0.5]), (items, 1)),
            "confidence": np.full((items, 1), 0.75, np.float32),
        } | self.outputs
        tensors = tuple(Tensor(name, array) for name, array in outputs.items())
        return InferResponse("m", tensors, self.version, parameters={"model_digest": f"sha256:{self.version}"})


class Network:
    """Answers as the client of several predictors would, each behind a host of its own.

    Attributes:
        hosts: The predictor behind each base URL.
    """

    def __init__(self, hosts: dict[str, Predictor]) -> None:
        self.hosts = hosts

    async def metadata(self, base_url: str) -> ModelMetadata:
        """See `PredictorClient`."""
        return await self.hosts[base_url].metadata(base_url)

    async def ready(self, base_url: str) -> bool:
        """See `PredictorClient`."""
        return await self.hosts[base_url].ready(base_url)

    async def infer(self, base_url: str, request: InferRequest, context: CallContext) -> InferResponse:
        """See `PredictorClient`."""
        return await self.hosts[base_url].infer(base_url, request, context)


class Counters:
    """Reads the metrics that Prometheus would see."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a counter, 0 where it was never counted."""
        return self._registry.get_sample_value(f"transformer_{name}_total", labels) or 0.0


@dataclass
class Answer:
    """What an ASGI application sent."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The body as JSON."""
        return orjson.loads(self.body)


class Rest:
    """The REST application over the fake predictor.

    Attributes:
        registered: The aliases that the registry knows, by version; it is away as long as there are none.
        registry_s: How long it takes to tell them.
        foreign: What was handed to the application behind.
        draining: Not empty when the process is about to stop.
    """

    def __init__(self, model: LocalizationTransformer, settings: Settings) -> None:
        self.registered: dict[str, tuple[str, ...]] = {}
        self.registry_s = 0.0
        self.foreign: list[Scope] = []
        self.draining: list[bool] = []
        aliases = RegistryAliases(self._told, max_age_s=-1.0)  # which remembers nothing
        self.app: ASGIApp = RestApplication(
            model, settings, aliases, self._fallback, draining=lambda: bool(self.draining)
        )

    async def _told(self, version: str) -> tuple[str, ...]:
        await asyncio.sleep(self.registry_s)
        if not self.registered:
            raise RegistryError("it is away")
        return self.registered[version]

    async def _fallback(self, scope: Scope, _receive: object, _send: object) -> None:
        self.foreign.append(scope)

    async def call(self, method: str, path: str, body: bytes = b"", *headers: Header, gone: bool = False) -> Answer:
        """Send one request; with `gone` the client leaves before its body is complete."""
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": gone}]
        answer = Answer()

        async def receive() -> Message:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], dict(message["headers"])
            else:
                answer.body += message["body"]

        await self.app({"type": "http", "method": method, "path": path, "headers": list(headers)}, receive, send)
        return answer


@pytest.fixture
def predictor(contracts: Any) -> Predictor:  # noqa: ANN401 - of the folder above
    """A predictor that serves the contract."""
    return Predictor(contracts.document(samples=640, features__frames=2))


@pytest.fixture
def canary(contracts: Any) -> Predictor:  # noqa: ANN401 - of the folder above
    """A predictor of the next version, with another contract."""
    predictor = Predictor(contracts.document(samples=640, features__frames=2, features__bands=64))
    predictor.version = "4"
    return predictor


@pytest.fixture
def network(predictor: Predictor, canary: Predictor) -> Network:
    """The ordinary host, and the tag hosts of a canary release."""
    return Network(
        {"http://predictor": predictor, "http://prev-predictor": predictor, "http://latest-predictor": canary}
    )


@pytest.fixture
def watch() -> TrafficWatch:
    """A watch that is off: one arm, until a test says otherwise."""
    return TrafficWatch("http://predictor", None)


@pytest.fixture
def split(watch: TrafficWatch) -> Callable[..., Arms]:
    """Makes the watch see a canary with a share of the requests, or none where the share is None."""

    def see(percent: int | None) -> Arms:
        stable, shares = Arm("stable", "http://prev-predictor", 100, "loc-1"), (100,)
        arms = Arms(stable)
        if percent is not None:
            shares = (100 - percent, percent)
            canary = Arm("canary", "http://latest-predictor", shares[1], "loc-2")
            arms = Arms(replace(stable, percent=shares[0]), canary)
        watch.snapshot = replace(watch.snapshot, arms=arms)
        return arms

    return see


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of this test alone."""
    return CollectorRegistry()


@pytest.fixture
def counted(registry: CollectorRegistry) -> Counters:
    """The values of the counters."""
    return Counters(registry)


@pytest.fixture
def make_model(
    network: Network, watch: TrafficWatch, registry: CollectorRegistry
) -> Iterator[Callable[..., LocalizationTransformer]]:
    """Makes a transformer with the given settings."""
    made: list[LocalizationTransformer] = []
    metrics = Metrics(registry)

    def make(**settings: Any) -> LocalizationTransformer:  # noqa: ANN401 - of any type
        observed = Observed(metrics)
        store = MemoryStore(max_bytes=1_000_000, ttl_s=60.0)
        model = LocalizationTransformer(
            settings=Settings(**({"predictor_host": "predictor", "dsp_threads": 1} | settings)),
            client=network,  # type: ignore[arg-type]  # the same methods
            models=ModelDirectory(network),
            watch=watch,
            upstream=Upstream(
                network,  # type: ignore[arg-type]  # the same
                RetryBudget(),
                metrics,
                max_calls=64,
                settling=Settling(0.0),
                restart=RestartWait(network.ready, longest_s=0.0),
                jitter=lambda: 0.0,
            ),
            cache=AnswerCache(store, observe=observed.cache_event, shared_errors=(InvalidModelOutput,)),
            observed=observed,
        )
        made.append(model)
        model.load()
        return model

    yield make
    for model in made:
        model.stop()


@pytest.fixture
def model(make_model: Callable[..., LocalizationTransformer]) -> LocalizationTransformer:
    """A transformer with the defaults."""
    return make_model()


@pytest.fixture
def make_rest(make_model: Callable[..., LocalizationTransformer]) -> Callable[..., Rest]:
    """Makes the REST application with the given settings."""

    def make(**settings: Any) -> Rest:  # noqa: ANN401 - of any type
        return Rest(make_model(**settings), Settings(predictor_host="predictor", **settings))

    return make


@pytest.fixture
def rest(make_rest: Callable[..., Rest]) -> Rest:
    """The REST application with the defaults."""
    return make_rest()


@pytest.fixture(scope="session")
def iq() -> Array:
    """White noise of -80 dBm at seven receivers, FP32 [1,7,640,2]."""
    noise = np.random.default_rng(1).normal(0.0, np.sqrt(0.5e-3), (1, 7, 640, 2))
    return noise.astype(np.float32)


@pytest.fixture
def described(predictor: Predictor) -> DescribedModel:
    """The model that the predictor serves."""
    return describe(predictor.described())


@pytest.fixture(scope="session")
def arm() -> Arm:
    """The only arm."""
    return Arm("stable", "http://predictor")


@pytest.fixture
def context() -> CallContext:
    """A call with half a minute left."""
    return CallContext(time.monotonic() + 30.0, "a-request")
