from __future__ import annotations

import pytest

from predictor.errors import ArtifactError
from predictor.layout import choose


@pytest.mark.parametrize(
    ("names", "version", "choice"),
    [
        (["model.onnx", "contract.json", "MLmodel"], None, ("model.onnx", "1")),
        (["net.onnx", "python_model.pkl"], "12", ("net.onnx", "12")),
        (["2/model.onnx", "10/net.onnx", "10/old/model.onnx"], None, ("10/net.onnx", "10")),
        (["a.onnx", "b.onnx", "3/model.onnx"], "3", ("3/model.onnx", "3")),
        (["2/a.onnx", "2/b.onnx", "3/model.onnx"], None, ("3/model.onnx", "3")),
        (["x/model.onnx", "1\n/model.onnx", "1/model.onnx\n", "7/model.onnx"], None, ("7/model.onnx", "7")),
    ],
)
def test_choice(names: list[str], version: str | None, choice: tuple[str, str]) -> None:
    """The model of the version asked for, else of the highest, whatever else lies around it."""
    assert choose(names, version, "here") == choice


@pytest.mark.parametrize(
    ("names", "version", "reason"),
    [
        (["deep/2/model.onnx", "model.onnx.bak"], None, "here holds neither model.onnx nor VERSION/model.onnx"),
        (["2/a.onnx", "2/b.onnx"], None, r"here holds several models \(a.onnx, b.onnx\) and no model.onnx"),
        (["2/model.onnx"], "3", "here has no version 3; it has 2"),
        (["model.onnx", "2/model.onnx"], None, "here holds model.onnx and also versions: 2; say which version"),
    ],
)
def test_no_choice(names: list[str], version: str | None, reason: str) -> None:
    """Nothing to serve, or too much, is told with what there is."""
    with pytest.raises(ArtifactError, match=reason):
        choose(names, version, "here")
