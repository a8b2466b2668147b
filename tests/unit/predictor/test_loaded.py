from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from oip.messages import Tensor
from predictor import loaded
from predictor.errors import ArtifactError
from predictor.loaded import LoadedModel
from predictor.plan import Plan
from predictor.session import Session
from predictor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each session was made with."""
    made: list[int] = []
    real = Session.__init__

    def init(self: Session, path: Path, *, threads: int = 1, **options: object) -> None:
        made.append(threads)
        real(self, path, threads=threads, **options)  # type: ignore[arg-type]  # Session's own

    monkeypatch.setattr(Session, "__init__", init)
    return made


def _load(folder: Path, write_model: Callable[..., Path], **settings: object) -> LoadedModel:
    write_model("add", folder / "model.onnx")
    return LoadedModel.load(Settings(model_dir=folder, **settings))  # type: ignore[arg-type]  # settings by name


def test_a_quick_model_gets_one_thread(
    tmp_path: Path, write_model: Callable[..., Path], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is chosen by measurement: one thread below a millisecond, the quota above; a given number holds."""
    monkeypatch.setattr(Settings, "session_threads_or_quota", property(lambda self: self.session_threads or 3))
    _load(tmp_path, write_model)
    monkeypatch.setattr(loaded, "_ONE_THREAD_RUN_S", 0.0)
    _load(tmp_path, write_model)
    _load(tmp_path, write_model, session_threads=2)
    monkeypatch.setattr(loaded, "_PERHAPS_SMALL_BYTES", 0)
    _load(tmp_path, write_model)
    assert threads == [1, 1, 3, 2, 3]


def test_graphs_are_kept_where_the_setting_says(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """One optimised graph for one model, however often it is loaded."""
    for _ in range(2):
        _load(tmp_path, write_model, graph_cache_dir=tmp_path / "graphs", session_threads=1)
    assert len(list((tmp_path / "graphs").iterdir())) == 1


def test_another_digest_than_asked_for(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A model that is not the one that was announced is refused."""
    with pytest.raises(ArtifactError, match="was asked for"):
        _load(tmp_path, write_model, model_digest="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("a", "b", "shares"),
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (1, 3), False),
        ((1, 3), (9, 3), False),
        ((8, 3), (8, 3), False),
        ((0, 3), (0, 3), False),
    ],
)
def test_who_may_share_a_run(
    tmp_path: Path, write_model: Callable[..., Path], a: tuple[int, int], b: tuple[int, int], *, shares: bool
) -> None:
    """Requests with one batch size in all inputs, below the largest batch; the key tells shapes and outputs apart."""
    model = _load(tmp_path, write_model)
    object.__setattr__(model, "plan", Plan(max_rows=8))  # whatever was measured
    tensors = [Tensor("a", np.zeros(a, np.float32)), Tensor("b", np.zeros(b, np.float32))]
    work = model.work(tensors, ["total"], 1.0)
    assert (work.rows, work.deadline_s, work.batch_key is not None) == (max(a[0], b[0]), 1.0, shares)
    if shares:
        assert work.batch_key == model.work(tensors, ["total"], 2.0).batch_key
        assert work.batch_key != model.work(tensors, ["first"], 1.0).batch_key
