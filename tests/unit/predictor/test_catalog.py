from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip import errors as oip_errors
from oip.messages import InferRequest, Tensor
from oip.repository import READY, UNAVAILABLE, RepositoryEntry
from predictor import catalog, following, loaded, source
from predictor.backend import Backend
from predictor.errors import ArtifactError, SourceError
from predictor.following import follow, look
from predictor.repository import CatalogRepository
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oip.messages import CallContext
    from predictor.artifact import Artifact

X = InferRequest((Tensor("x", np.array([[1, 2, 3]], np.float32)),))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Backend]]:
    """Makes and loads backends of the model `m` in the test's folder."""
    made: list[Backend] = []

    def make(**settings: Any) -> Backend:  # noqa: ANN401 - settings
        settings = {"session_threads": 1, "execution_threads": 1, "warmup_batch_sizes": (1,)} | settings
        made.append(Backend(Settings(model_name="m", model_dir=tmp_path, **settings)))
        made[-1].catalog.load()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def write(tmp_path: Path, write_model: Callable[..., Path]) -> Callable[[int, float], Path]:
    """Writes version `v` that multiplies by `factor`."""
    return lambda version, factor: write_model("scale", tmp_path / str(version) / "model.onnx", factor)


async def _factor(backend: Backend, context: CallContext, version: str | None = None) -> tuple[float, str | None]:
    response = await backend.infer("m", version, X, context)
    return float(response.output("y").array[0, 0]), response.model_version


async def test_a_new_version_takes_over(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """After a reload the highest version answers; the old one is gone, in the URL, in memory and in the metrics."""
    write(1, 10)
    backend = make()
    old = weakref.ref(backend.catalog.served["1"].loaded.session)
    write(2, 20)
    assert await _factor(backend, context) == (10, "1")
    await backend.catalog.reload()
    assert await _factor(backend, context) == (20, "2")
    with pytest.raises(oip_errors.NotFound, match="no version '1' here; it has 2"):
        await _factor(backend, context, "1")
    gc.collect()
    assert old() is None
    assert backend.metrics.loads == {"ok": 2, "failed": 0}


async def test_a_request_keeps_its_version(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """A request that has begun is answered by the version that it began with, however many come after it."""
    write(1, 10)
    backend = make(inline_run_us=0)
    begun = asyncio.ensure_future(_factor(backend, context))
    await asyncio.sleep(0)
    write(2, 20)
    await backend.catalog.reload()
    assert await begun == (10, "1")


async def test_what_has_not_changed_stays(make: Callable[..., Backend], write: Callable[..., Path]) -> None:
    """The same files are not loaded again, and go on with their figures; replaced files of the same version are."""
    write(1, 10)
    backend = make()
    before = backend.catalog.current
    await backend.catalog.reload()
    assert backend.catalog.current is before
    write(1, 30)
    await backend.catalog.reload()
    after = backend.catalog.current
    assert before is not None
    assert after is not None
    assert after is not before
    assert after.recorder is before.recorder


async def test_a_broken_version_changes_nothing(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """The old version goes on; the index says why the new one does not serve, until it can be loaded."""
    write(1, 10)
    backend = make()
    repository = CatalogRepository("m", backend.catalog, writable=True)
    write(2, 20).write_bytes(b"nonsense")
    with pytest.raises(oip_errors.InvalidRequest, match="not a model that can be run"):
        await repository.load("m", {})
    assert await _factor(backend, context) == (10, "1")
    good, bad = repository.index()
    assert good == RepositoryEntry("m", "1", READY)
    assert (bad.version, bad.state) == ("2", UNAVAILABLE)
    assert "not a model that can be run" in bad.reason
    assert backend.metrics.loads == {"ok": 1, "failed": 1}
    write(2, 20)
    await repository.load("m", {})
    assert repository.index() == [RepositoryEntry("m", "2", READY)]


async def test_a_broken_file_of_the_version_served(make: Callable[..., Backend], write: Callable[..., Path]) -> None:
    """It is served as it was loaded, and the index has a reason."""
    write(1, 10)
    backend = make()
    write(1, 10).write_bytes(b"nonsense")
    with pytest.raises(ArtifactError):
        await backend.catalog.reload()
    (entry,) = CatalogRepository("m", backend.catalog, writable=True).index()
    assert (entry.version, entry.state) == ("1", READY)
    assert "not a model that can be run" in entry.reason


async def test_several_versions(make: Callable[..., Backend], write: Callable[..., Path], context: CallContext) -> None:
    """Further versions answer under their own URL; with `all` new ones join at the next load."""
    for version in (1, 2, 3):
        write(version, version)
    backend = make(also_versions=("1",))
    assert [await _factor(backend, context, one) for one in (None, "1", "3")] == [(3, "3"), (1, "1"), (3, "3")]
    with pytest.raises(oip_errors.NotFound):
        await _factor(backend, context, "2")
    assert (await backend.model_metadata("m", "1")).versions == ("3", "1")
    every = make(also_versions=("all",))
    assert set(every.catalog.served) == {"1", "2", "3"}
    write(4, 4)
    await every.catalog.reload()
    assert (await _factor(every, context), set(every.catalog.served)) == ((4, "4"), {"1", "2", "3", "4"})


async def test_loading_and_unloading_on_request(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """Unloaded means not ready and 503, until it is loaded; a certain version can be asked for."""
    for version in (1, 2):
        write(version, version)
    backend = make()
    repository = CatalogRepository("m", backend.catalog, writable=True)
    await repository.unload("m")
    assert not await backend.server_ready()
    assert repository.index() == [RepositoryEntry("m", "", UNAVAILABLE, "unloaded")]
    with pytest.raises(oip_errors.Unavailable):
        await _factor(backend, context)
    await repository.load("m", {"version": "1"})
    assert await _factor(backend, context) == (1, "1")
    await repository.load("m", {})
    assert await _factor(backend, context) == (2, "2")
    for parameters in ({"version": "../1"}, {"config": "{}"}):
        with pytest.raises(oip_errors.InvalidRequest, match=r"parameters\.(version|config)"):
            await repository.load("m", parameters)
    with pytest.raises(oip_errors.NotFound):
        await repository.unload("other")


async def test_not_switched_on(make: Callable[..., Backend], write: Callable[..., Path]) -> None:
    """Without the setting, nobody loads or unloads; the index may be read."""
    write(1, 10)
    repository = CatalogRepository("m", make().catalog, writable=False)
    for call in (repository.load("m", {}), repository.unload("m")):
        with pytest.raises(oip_errors.NotImplementedHere):
            await call
    assert len(repository.index()) == 1


def test_a_failing_first_load(make: Callable[..., Backend], write: Callable[..., Path]) -> None:
    """At the start the current version has to load."""
    write(1, 10)
    with pytest.raises(ArtifactError, match="has no version 7"):
        make(model_version="7", also_versions=("1",))


async def test_a_broken_version_beside_the_current_one(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """It blocks neither the start nor newer versions; the index tells why it is missing."""
    write(1, 10).write_bytes(b"nonsense")
    write(2, 20)
    backend = make(also_versions=("all",))
    assert await _factor(backend, context) == (20, "2")
    write(3, 30)
    await backend.catalog.reload()
    assert await _factor(backend, context) == (30, "3")
    entries = CatalogRepository("m", backend.catalog, writable=True).index()
    assert {(one.version, one.state) for one in entries} == {("3", READY), ("2", READY), ("1", UNAVAILABLE)}
    assert "not a model that can be run" in entries[-1].reason
    assert backend.metrics.loads == {"ok": 2, "failed": 2}


async def test_a_version_beside_the_current_one_that_breaks(
    make: Callable[..., Backend], write: Callable[..., Path], context: CallContext
) -> None:
    """It is served on as it was loaded, while the current one is replaced."""
    write(1, 10)
    write(2, 20)
    backend = make(also_versions=("all",))
    write(1, 10).write_bytes(b"nonsense")
    write(2, 25)
    await backend.catalog.reload()
    assert [await _factor(backend, context, one) for one in (None, "1")] == [(25, "2"), (10, "1")]
    assert "1" in backend.catalog.failures


@pytest.mark.parametrize("waiting", [False, True])
async def test_unloaded_while_it_is_loaded(
    make: Callable[..., Backend], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *, waiting: bool
) -> None:
    """What was asked last counts: a load that had begun, or that waited for another, does not bring the model back."""
    write(1, 10)
    backend = make()
    write(2, 20)
    entered, released = threading.Event(), threading.Event()

    def find(settings: Settings) -> Artifact:
        entered.set()
        assert released.wait(10)
        return loaded.find(settings)

    monkeypatch.setattr(catalog, "find", find)
    repository = CatalogRepository("m", backend.catalog, writable=True)
    loads = [asyncio.ensure_future(repository.load("m", {})) for _ in range(1 + waiting)]
    await asyncio.to_thread(entered.wait, 10)
    await repository.unload("m")
    assert not await backend.server_ready()
    released.set()
    for load in loads:
        with pytest.raises(oip_errors.InvalidRequest, match="was unloaded while it was being loaded"):
            await load
    assert not await backend.server_ready()
    assert backend.metrics.loads["failed"] == 0
    await repository.load("m", {})
    assert await backend.server_ready()


# Following


async def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


@pytest.fixture
def appear(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]
) -> Callable[..., None]:
    """Lets a version appear at once and whole, moved to its place; with `content` as its file where that is given."""

    def appear(version: int, factor: float, content: bytes = b"") -> None:
        path = write_model("scale", tmp_path_factory.mktemp("new") / str(version) / "model.onnx", factor)
        if content:
            path.write_bytes(content)
        path.parent.rename(tmp_path / str(version))

    return appear


async def test_following_a_folder(
    make: Callable[..., Backend],
    write: Callable[..., Path],
    appear: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What appears in the folder is served soon; what is broken is tried once and said in the log."""
    looks: list[object] = []
    fingerprint = following.fingerprint
    monkeypatch.setattr(following, "fingerprint", lambda folder: looks.append(fingerprint(folder)) or looks[-1])
    write(1, 10)
    settings = Settings(model_name="m", model_dir=write(1, 10).parent.parent, follow_s=0.01, warmup_batch_sizes=(1,))
    backend = make()
    versions = backend.catalog
    task = asyncio.ensure_future(follow(versions, settings, look(settings)))
    try:
        await _until(lambda: len(looks) > 0)
        appear(2, 20)
        await _until(lambda: "2" in versions.served)
        with caplog.at_level(logging.WARNING):
            appear(3, 30, b"nonsense")
            await _until(lambda: "3" in versions.failures)
            seen = len(looks)
            await _until(lambda: len(looks) > seen + 5)
        assert backend.metrics.loads["failed"] == 1
        assert "the version before goes on" in caplog.text
        write(3, 30)
        await _until(lambda: "3" in versions.served)
    finally:
        task.cancel()


async def test_what_appears_during_the_start_is_served(
    tmp_path: Path, make: Callable[..., Backend], write: Callable[..., Path]
) -> None:
    """A version that came after the first load, but before anybody follows, is new to who looked before the load."""
    write(1, 10)
    settings = Settings(model_name="m", model_dir=tmp_path, follow_s=0.005, warmup_batch_sizes=(1,))
    seen = look(settings)
    backend = make()
    write(2, 20)
    task = asyncio.ensure_future(follow(backend.catalog, settings, seen))
    try:
        await _until(lambda: "2" in backend.catalog.served)
    finally:
        task.cancel()


async def test_following_an_alias(
    make: Callable[..., Backend], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version behind the alias is loaded; a registry that is away is asked again, and stops nothing."""
    write(1, 10)
    backend = make()
    meanings: list[str | None] = ["1", None, "1", "2"]
    fetched: list[str] = []

    class Store:
        def names(self) -> list[str]:
            return []

    def resolve(_uri: str, environ: object) -> source.Pinned:
        assert environ is os.environ
        meaning = meanings.pop(0) if len(meanings) > 1 else meanings[0]
        if meaning is None:
            raise SourceError("the registry is away")
        return source.Pinned(Store(), None, meaning)  # type: ignore[arg-type]  # nothing else of it is asked

    async def reload() -> None:
        fetched.append("once" if fetched else "failed")
        if len(fetched) == 1:
            raise SourceError("broken off")

    monkeypatch.setattr(following.source, "resolve", resolve)
    monkeypatch.setattr(backend.catalog, "reload", reload)
    settings = Settings(model_uri="models:/m@champion", follow_s=0.005)
    task = asyncio.ensure_future(follow(backend.catalog, settings, look(settings)))
    try:
        await _until(lambda: len(fetched) == 2)
        await asyncio.sleep(0.05)
    finally:
        task.cancel()
    assert fetched == ["failed", "once"]


async def test_following_outlives_any_error(
    make: Callable[..., Backend],
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A disk that cannot be written, or a bug, is told with its trace, counted, and tried again."""
    write(1, 10)
    backend = make()
    looks: list[Exception | str] = ["1", ValueError("a bug in looking"), "2"]
    finds: list[Exception] = [OSError(28, "No space left on device"), ValueError("a bug in loading")]

    def mark(_settings: Settings) -> tuple[object, ...]:
        look = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(look, Exception):
            raise look
        return (look,)

    def find(settings: Settings) -> Artifact:
        if finds:
            raise finds.pop(0)
        return loaded.find(settings)

    write(2, 20)
    monkeypatch.setattr(following, "_mark", mark)
    monkeypatch.setattr(catalog, "find", find)
    settings = Settings(model_dir=Path(), follow_s=0.005)
    task = asyncio.ensure_future(follow(backend.catalog, settings, look(settings)))
    try:
        await _until(lambda: task.done() or "2" in backend.catalog.served)
    finally:
        task.cancel()
    assert "2" in backend.catalog.served
    assert backend.metrics.loads == {"ok": 2, "failed": 2}
    for what in ("a bug in looking", "No space left", "a bug in loading"):
        assert what in caplog.text
