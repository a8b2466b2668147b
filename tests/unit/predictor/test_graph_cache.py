from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from predictor.errors import ArtifactError
from predictor.graph_cache import GraphCache
from predictor.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = {"x": np.ones((2, 3), np.float32)}


def _session(path: Path, folder: Path, digest: str = "sha256:1", threads: int = 1) -> Session:
    return Session(path, threads=threads, open_session=partial(GraphCache(folder).open, digest=digest))


@pytest.fixture
def model(tmp_path: Path, write_model: Callable[..., Path]) -> Path:
    """`y` = `x` × 2, with metadata."""
    return write_model("scale", tmp_path / "model.onnx", props={"key": "value"})


def test_the_second_load_uses_the_first_ones_graph(model: Path, tmp_path: Path) -> None:
    """What is loaded again is the optimised graph, even if the model's file is another by now; metadata is in it."""
    folder = tmp_path / "made" / "cache"
    assert _session(model, folder).run(X, ["y"])[0].tolist() == [[2, 2, 2]] * 2
    assert len(list(folder.glob("*.onnx"))) == len(list(folder.iterdir())) == 1
    model.write_bytes(b"nonsense")
    again = _session(model, folder)
    assert again.run(X, ["y"])[0].tolist() == [[2, 2, 2]] * 2
    assert again.metadata_props == {"key": "value"}


def test_another_model_or_setting_has_another_graph(model: Path, tmp_path: Path) -> None:
    """Digest and thread count belong to the key."""
    for digest, threads in (("sha256:1", 1), ("sha256:2", 1), ("sha256:2", 2), ("sha256:1", 1)):
        _session(model, tmp_path / "cache", digest, threads)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_broken_graph_is_replaced(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be used is told in the log and written anew."""
    folder = tmp_path / "cache"
    _session(model, folder)
    cached = next(folder.iterdir())
    good = cached.read_bytes()
    cached.write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        assert _session(model, folder).run(X, ["y"])[0].tolist() == [[2, 2, 2]] * 2
    assert "cannot be used" in caplog.text
    assert len(cached.read_bytes()) == len(good)


def test_a_folder_that_cannot_be_written(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Then the model is loaded as it is, and the log says why."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert _session(model, tmp_path / "file" / "cache").run(X, ["y"])[0].tolist() == [[2, 2, 2]] * 2
    assert "no optimised graph is kept" in caplog.text


def test_a_broken_model_is_an_error(tmp_path: Path) -> None:
    """The model's own mistake is raised as without a cache, and nothing is left behind."""
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="not a model that can be run"):
        _session(tmp_path / "model.onnx", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
