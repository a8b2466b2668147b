"""What the tests of the protocol share: an echo backend, an in-memory ASGI client, and strategies for tensors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from oip.asgi import OpenInferenceApplication
from oip.errors import NotFound, Unavailable
from oip.messages import (
    DTYPES,
    CallContext,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
    Tensor,
    TensorMetadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from oip.http import ASGIApp, Header, Message, Scope


class EchoBackend:
    """One model, `echo`, version 1, that answers with its inputs; some request parameters make it misbehave."""

    def __init__(self) -> None:
        self.ready = True
        self.contexts: list[CallContext] = []
        self.place: asyncio.Future[None] | None = None

    def server_metadata(self) -> ServerMetadata:
        """A fixed name."""
        return ServerMetadata("heimdall", "0")

    async def server_ready(self) -> bool:
        """As set by the test."""
        return self.ready

    async def model_ready(self, model_name: str, version: str | None) -> bool:
        """As set by the test."""
        self._check(model_name, version)
        return self.ready

    async def model_metadata(self, model_name: str, version: str | None) -> ModelMetadata:
        """One tensor each way."""
        self._check(model_name, version)
        tensors = (TensorMetadata("x", "FP32", (-1, 2)),)
        return ModelMetadata(model_name, "echo", tensors, tensors, ("1",), {"model_digest": "sha256:0"})

    async def infer(
        self, model_name: str, version: str | None, request: InferRequest, context: CallContext
    ) -> InferResponse:
        """The inputs asked for, or all."""
        self._check(model_name, version)
        self.contexts.append(context)
        match request.parameters.get("mode"):
            case "crash":
                raise ValueError("secret")
            case "own timeout":
                raise TimeoutError("secret")
            case "busy":
                raise Unavailable("the queue is full", retry_after_s=2)
            case "slow":
                await asyncio.sleep(float(request.parameters["seconds"]))
            case "queued":
                await self._wait_for_a_place(context)
        asked = [output.name for output in request.outputs]
        outputs = tuple(request.input(name) for name in asked) if asked else request.inputs
        return InferResponse(model_name, tuple(Tensor(t.name, t.array) for t in outputs), "1", request.id)

    async def _wait_for_a_place(self, context: CallContext) -> None:
        assert context.watch is not None
        self.place = asyncio.get_running_loop().create_future()
        context.watch(self.place)
        await self.place

    def _check(self, model_name: str, version: str | None) -> None:
        if model_name != "echo" or version not in {None, "1"}:
            raise NotFound(f"there is no model '{model_name}' in version {version}")


@dataclass
class Answer:
    """What an ASGI application sent."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    messages: list[Message] = field(default_factory=list)

    @property
    def json_size(self) -> int | None:
        """The length of the JSON part, where binary tensors follow it."""
        size = self.headers.get(b"inference-header-content-length")
        return None if size is None else int(size)


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: tuple[Header, ...] = (),
    *,
    chunks: list[bytes] | None = None,
    disconnect: bool = False,
) -> Answer:
    """Send one request to an ASGI application and collect the answer."""
    pending = [body] if chunks is None else list(chunks)
    scope: Scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": list(headers)}
    answer = Answer()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if not pending:
            return {"type": "http.disconnect"}
        chunk = pending.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(pending) or disconnect}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        answer.messages.append(message)
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = dict(message["headers"])
        else:
            answer.body += message["body"]

    await app(scope, receive, send)
    return answer


@dataclass
class Service:
    """An application over an echo backend, and what its observer was told."""

    app: OpenInferenceApplication
    backend: EchoBackend
    observed: list[tuple[str, str, int]]
    foreign: list[Scope]
    draining: list[bool]

    async def call(self, *args: Any, **kwargs: Any) -> Answer:  # noqa: ANN401 - passed on to `call`
        """Send one request."""
        return await call(self.app, *args, **kwargs)


@pytest.fixture
def make_service() -> Callable[..., Service]:
    """Makes an application with the given options."""

    def make(**options: Any) -> Service:  # noqa: ANN401 - the application's own
        backend = EchoBackend()
        observed: list[tuple[str, str, int]] = []
        foreign: list[Scope] = []
        draining: list[bool] = []

        async def fallback(scope: Scope, _receive: object, _send: object) -> None:
            foreign.append(scope)

        def observe(model: str, version: str, status: int, seconds: float) -> None:
            assert 0 <= seconds < 60
            observed.append((model, version, status))

        app = OpenInferenceApplication(backend, fallback, observer=observe, draining=lambda: bool(draining), **options)
        return Service(app, backend, observed, foreign, draining)

    return make


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """An application with the defaults."""
    return make_service()


@pytest.fixture
def asgi_call() -> Callable[..., Any]:
    """`call`, for applications that a test makes itself."""
    return call


@pytest.fixture
def context() -> CallContext:
    """A context with half a minute left."""
    return CallContext(time.monotonic() + 30, "id")


def _arrays(datatype: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    shape = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    if datatype == "BYTES":
        return npst.arrays(object, shape, elements=st.text(max_size=5).map(str.encode), fill=st.nothing())
    dtype = DTYPES[datatype]
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return npst.arrays(dtype, shape, elements=npst.from_dtype(dtype, **elements))


@st.composite
def _tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True))
    return tuple(Tensor(name, draw(st.sampled_from(sorted(DTYPES)).flatmap(_arrays))) for name in names)


@pytest.fixture(scope="session")
def tensors() -> st.SearchStrategy[tuple[Tensor, ...]]:
    """Tuples of one to three tensors of any datatype, finite, of rank 0 to 4, empty axes included."""
    return _tensors()
