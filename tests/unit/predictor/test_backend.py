from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import kserve
import numpy as np
import pytest
from grpc_interceptor import exceptions as grpc_errors

from oip import errors as oip_errors
from oip.messages import CallContext, InferRequest, Tensor
from predictor.model import OnnxModel
from predictor.session import Session
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

X = np.array([[1, 2, 3]], np.float32)
REQUEST = InferRequest((Tensor("x", X),))


@pytest.fixture
def make(tmp_path: Path, write_model: Callable[..., Path]) -> Iterator[Callable[..., OnnxModel]]:
    """Writes a graph of conftest.py, and loads it as the model `m`."""
    made: list[OnnxModel] = []

    def make(name: str = "identity", *args: object, **chosen: Any) -> OnnxModel:  # noqa: ANN401 - settings
        write_model(name, tmp_path / "model.onnx", *args)
        settings = {"execution_threads": 1, "session_threads": 1, "inline_run_us": 100_000, "max_batch_size": 16}
        settings |= chosen
        made.append(OnnxModel(Settings(model_name="m", model_dir=tmp_path, **settings)))
        made[-1].load()
        return made[-1]

    yield make
    for model in made:
        model.stop()


def _watch_thread(monkeypatch: pytest.MonkeyPatch, sleep_s: float = 0.0) -> list[int]:
    threads: list[int] = []
    real = Session.run

    def run(self: Session, *args: Any) -> Any:  # noqa: ANN401 - Session.run's
        threads.append(threading.get_ident())
        time.sleep(sleep_s)
        return real(self, *args)

    monkeypatch.setattr(Session, "run", run)
    return threads


async def test_short_runs_are_made_in_the_loop(
    make: Callable[..., OnnxModel], context: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the measured batch size in the event loop, beyond it in a thread; both are counted."""
    backend = make().backend
    threads = _watch_thread(monkeypatch)
    await backend.infer("m", None, REQUEST, context)
    await backend.infer("m", None, InferRequest((Tensor("x", np.zeros((99, 3), np.float32)),)), context)
    assert [one == threading.get_ident() for one in threads] == [True, False]
    (told,) = backend.statistics("m", "1")
    assert (told.inference_count, told.execution_count, told.queue.count) == (100, 2, 2)


async def test_loops_are_never_run_in_the_loop(
    make: Callable[..., OnnxModel], context: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph with a loop goes to the threads, however quick it was in warm-up."""
    backend = make("loop").backend
    threads = _watch_thread(monkeypatch)
    await backend.infer("m", None, REQUEST, context)
    assert threads != [threading.get_ident()]


async def test_runs_that_became_slow_leave_the_loop(
    make: Callable[..., OnnxModel],
    context: CallContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After three runs of ten times the limit the event loop is not held up any more."""
    backend = make(inline_run_us=5_000).backend
    threads = _watch_thread(monkeypatch, 0.06)
    for _ in range(4):
        await backend.infer("m", None, REQUEST, context)
    assert [one == threading.get_ident() for one in threads] == [True, True, True, False]
    assert "from now on they are made in threads" in caplog.text


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Runs of the model wait for this."""
    release = threading.Event()
    real = Session.run

    def run(self: Session, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Session.run's
        assert release.wait(10)
        return real(self, *args, **options)

    release.set()
    monkeypatch.setattr(Session, "run", run)
    yield release
    release.set()


async def test_a_client_that_left_costs_no_run(make: Callable[..., OnnxModel], held: threading.Event) -> None:
    """Who has to wait is watched, and given up once the client has gone; who need not wait is not watched."""
    backend = make(inline_run_us=0).backend
    held.clear()
    watched: list[asyncio.Future[Any]] = []
    context = CallContext(float("inf"), "r", watch=watched.append)
    running = asyncio.ensure_future(backend.infer("m", None, REQUEST, context))
    await asyncio.sleep(0.05)
    waiting = asyncio.ensure_future(backend.infer("m", None, REQUEST, context))
    await asyncio.sleep(0.05)
    assert len(watched) == 1
    watched[0].set_exception(ConnectionError())
    with pytest.raises(ConnectionError):
        await waiting
    held.set()
    await running
    (told,) = backend.statistics("", None)
    assert told.execution_count == 1
    assert backend.metrics.in_flight == 0


async def test_a_deadline_that_passes_while_waiting(make: Callable[..., OnnxModel], held: threading.Event) -> None:
    """Work whose time is up before a worker is free is not run, and the answer is 504."""
    backend = make(inline_run_us=0, max_batch_size=1).backend
    held.clear()
    running = asyncio.ensure_future(backend.infer("m", None, REQUEST, CallContext(float("inf"), "r")))
    late = asyncio.ensure_future(backend.infer("m", None, REQUEST, CallContext(time.monotonic() + 0.02, "r")))
    await asyncio.sleep(0.05)
    held.set()
    await running
    with pytest.raises(oip_errors.DeadlineExceeded):
        await late


async def test_a_deadline_that_has_passed_already(make: Callable[..., OnnxModel]) -> None:
    """In the event loop too, nothing is run that nobody waits for."""
    backend = make().backend
    with pytest.raises(oip_errors.DeadlineExceeded):
        await backend.infer("m", None, REQUEST, CallContext(time.monotonic() - 1, "r"))
    assert backend.statistics("m", None)[0].execution_count == 0


async def test_who_is_counted_where(make: Callable[..., OnnxModel]) -> None:
    """Answers and errors count for their version; what never came to a known name, for none."""
    backend = make().backend
    for name, version, code in (("m", "1", 200), ("m", "", 400), ("", "", 404), ("m", "9", 404)):
        backend.observe(name, version, code, 0.1)
    recorder = backend.metrics.recorder("1")
    assert recorder is not None
    assert recorder.codes == {200: 1, 400: 1}
    assert backend.metrics.unattributed().codes == {404: 2}


async def test_grpc_and_v1_are_counted_too(make: Callable[..., OnnxModel]) -> None:
    """The SDK's routes add to the same figures, errors with the nearest HTTP status."""
    model = make()
    tensor = kserve.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(X, binary_data=True)
    await model.predict(kserve.InferRequest("m", [tensor]))
    with pytest.raises(grpc_errors.NotFound):
        await model.predict(kserve.InferRequest("m", [tensor], model_version="2"))
    await model.predict({"instances": X.tolist()})
    (told,) = model.backend.statistics("m", None)
    assert (told.success.count, told.execution_count) == (2, 2)
    assert model.backend.metrics.unattributed().codes == {404: 1}


async def test_clients_that_cancel_are_counted_as_such(
    make: Callable[..., OnnxModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gRPC or V1 client that gives up is 499, as over HTTP, and no failure of the model."""
    model = make()
    tensor = kserve.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(X, binary_data=True)

    async def hang(*_: object) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(model.backend, "infer", hang)
    calls: list[object] = [kserve.InferRequest("m", [tensor], model_version="1"), {"instances": X.tolist()}]
    for call in calls:
        task = asyncio.ensure_future(model.predict(call))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    recorder = model.backend.metrics.recorder("1")
    assert recorder is not None
    assert recorder.codes == {499: 2}


async def test_what_is_unloaded_stays_so(make: Callable[..., OnnxModel]) -> None:
    """The SDK calls `load` for any request that finds the model not ready: that must not load it again."""
    model = make()
    model.backend.catalog.unload()
    assert model.load()
    assert not await model.healthy()


async def test_batches_are_as_good_as_single_runs(make: Callable[..., OnnxModel]) -> None:
    """Many requests at once through real batches: each gets its own answer."""
    backend = make("scale", inline_run_us=0).backend
    current = backend.catalog.current
    assert current is not None
    object.__setattr__(current.loaded.plan, "max_rows", 8)  # whatever was measured
    context = CallContext(float("inf"), "r")
    requests = [InferRequest((Tensor("x", np.full((1, 3), value, np.float32)),)) for value in range(60)]
    answers = await asyncio.gather(*(backend.infer("m", None, one, context) for one in requests))
    assert [one.output("y").array.tolist() for one in answers] == [[[2.0 * value] * 3] for value in range(60)]
    (told,) = backend.statistics("m", "1")
    assert (told.inference_count, told.execution_count < 60) == (60, True)
