from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from predictor import source
from predictor.errors import SourceError
from predictor.settings import Settings
from predictor.source import Pinned, Place
from predictor.store import Interrupted, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator


class Folder:
    """A store whose files are in memory; `faults` of them break off before one is read to the end."""

    where = "memory"

    def __init__(self, files: dict[str, bytes], faults: int = 0) -> None:
        self.files, self.faults = files, faults

    def names(self) -> Collection[str]:
        """All of them."""
        return list(self.files)

    def find(self, name: str) -> RemoteFile | None:
        """With its true size."""
        return RemoteFile(name, len(self.files[name])) if name in self.files else None

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """In two pieces."""
        yield self.files[file.name][:1]
        if self.faults:
            self.faults -= 1
            raise Interrupted("cut")
        yield self.files[file.name][1:]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Downloads go to a folder of the test."""
    return replace(Settings(), download_dir=tmp_path / "kept", model_uri="memory")


def test_a_folder_that_kserve_has_filled() -> None:
    """Without a URI the model is in its directory, and nothing is asked for."""
    assert source.obtain(replace(Settings(), model_version="3"), {}) == Place(Path("/mnt/models"), "3")


def test_what_makes_a_model(settings: Settings, tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """The model, its contract and its external data, from its own folder and under names relative to that."""
    model = write_model("external", tmp_path / "m.onnx", "data/w.bin").read_bytes()
    inside = {"net.onnx": model, "contract.json": b"{}", "data/w.bin": b"w", "python_model.pkl": b"", "MLmodel": b""}
    store = Folder({f"7/{name}": content for name, content in inside.items()} | {"contract.json": b"", "w.bin": b""})
    place = source.fetch(Pinned(store, None, None), settings)
    found = {path.relative_to(place.path).as_posix(): path.read_bytes() for path in place.path.rglob("*.*")}
    assert found == {name: inside[name] for name in ("net.onnx", "contract.json", "data/w.bin")}
    assert place.version == "7"


@pytest.mark.parametrize(
    ("pinned", "asked", "version"), [(None, None, "1"), (None, "4", "4"), ("12", None, "12"), ("12", "12", "12")]
)
@pytest.mark.parametrize("model", [None, "model.onnx"])
def test_versions(settings: Settings, model: str | None, pinned: str | None, asked: str | None, version: str) -> None:
    """The registry's version, else the one asked for, else 1."""
    store = Folder({"model.onnx": b"m"})
    assert source.fetch(Pinned(store, model, pinned), replace(settings, model_version=asked)).version == version


def test_another_version_is_refused(settings: Settings) -> None:
    """An alias that means another version than the one asked for is not followed."""
    with pytest.raises(SourceError, match="memory is version 12, but version 4 was asked for"):
        source.fetch(Pinned(Folder({"model.onnx": b"m"}), None, "12"), replace(settings, model_version="4"))


@pytest.mark.parametrize(("faults", "fetched"), [(2, True), (3, False)])
def test_interruptions(settings: Settings, monkeypatch: pytest.MonkeyPatch, faults: int, *, fetched: bool) -> None:
    """A file that breaks off is fetched from its beginning, three times in all; then nothing is left of it."""
    monkeypatch.setattr("predictor.store.FIRST_PAUSE_S", 0.0)
    pinned = Pinned(Folder({"model.onnx": b"model"}, faults), None, None)
    if fetched:
        assert (source.fetch(pinned, settings).path / "model.onnx").read_bytes() == b"model"
    else:
        with pytest.raises(Interrupted, match="cut"):
            source.fetch(pinned, settings)
        assert list(settings.download_dir.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///model",
        "s3://b/a/../c",
        "s3://b/./c",
        "s3://b/..",
        "s3://b/a//c",
        "s3://u:p@b/a",
        "s3://b:9000/a",
        "s3://b/a?versionId=1",
        "https://example.org/model.onnx",
        "models:/m",
    ],
)
def test_what_is_no_source(settings: Settings, uri: str) -> None:
    """What is neither a folder of a bucket nor a registered version is refused before anything is asked for."""
    with pytest.raises(SourceError):
        source.obtain(replace(settings, model_uri=uri), {})


@pytest.mark.parametrize("reference", ["m@champion", "m/Production"])
def test_a_revision_does_not_change_its_model(settings: Settings, reference: str) -> None:
    """Under Knative an alias is refused, unless a digest holds it to one model."""
    knative = {"K_REVISION": "predictor-00001"}
    moving = replace(settings, model_uri=f"models:/{reference}")
    with pytest.raises(SourceError, match="a Knative revision must not"):
        source.obtain(moving, knative)
    for accepted in (replace(moving, model_digest="sha256:" + "0" * 64), replace(moving, model_uri="models:/m/1")):
        with pytest.raises(SourceError, match="needs MLFLOW_TRACKING_URI"):
            source.obtain(accepted, knative)


def test_the_time_budget(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hangs, the start does not; a timeout inside is passed on as it is."""
    over = threading.Event()
    monkeypatch.setattr(source, "resolve", lambda *_: over.wait(20))
    with pytest.raises(SourceError, match=r"s3://b/x was not fetched within 0\.1 s"):
        source.obtain(replace(settings, model_uri="s3://b/x", download_timeout_s=0.1), {})
    over.set()

    def late(*_: object) -> Pinned:
        raise TimeoutError("inside")

    monkeypatch.setattr(source, "resolve", late)
    with pytest.raises(TimeoutError, match="inside"):
        source.obtain(replace(settings, model_uri="s3://b/x"), {})
