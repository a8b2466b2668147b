from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from oip.messages import DTYPES, TensorMetadata
from predictor.errors import ArtifactError, InferenceFailed, SettingsError, SignatureError, WarmUpFailed
from predictor.session import Session
from predictor.warm_up import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_passes_unchanged(tmp_path: Path, write_model: Callable[..., Path], datatype: str) -> None:
    """Every V2 datatype goes into a model and comes out as it was, read-only inputs included."""
    session = Session(write_model("identity", tmp_path / "m.onnx", KINDS[datatype]))
    assert session.inputs == (TensorMetadata("x", datatype, (-1, 3)),)
    assert session.outputs == (TensorMetadata("y", datatype, (-1, 3)),)
    measure(session, (1, 2))
    values = [b"", "Città".encode(), b"\0"] if datatype == "BYTES" else [0, 1, 1 if datatype == "BOOL" else 7]
    x = np.array([values], DTYPES[datatype])
    x.flags.writeable = False
    (y,) = session.run({"x": x}, ["y"])
    assert y.dtype == DTYPES[datatype]
    assert y.flags.c_contiguous
    assert y.tolist() == x.tolist()


def test_shapes_as_the_model_tells_them(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """Named and nameless dynamic axes are -1; a scalar and an unknown rank are both []."""
    for shape, told in ((["n", 3, None], (-1, 3, -1)), ([], ()), (None, ())):
        session = Session(write_model("identity", tmp_path / "m.onnx", TensorProto.FLOAT, shape))
        assert session.inputs[0].shape == told


def test_only_the_outputs_asked_for(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """Outputs come in the order asked for, and what only another output needs is not computed."""
    session = Session(write_model("add", tmp_path / "m.onnx"))
    a, b = np.ones((2, 3), np.float32), np.ones((1, 3), np.float32)
    first, total = session.run({"a": a, "b": b}, ["first", "total"])
    assert (first.sum(), total.sum()) == (6, 12)
    assert len(session.run({"a": a, "b": b}, ["first"])) == 1


def test_the_runtime_refuses_the_inputs(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """What the runtime calls an invalid argument is the client's mistake, told without the runtime's prefix."""
    session = Session(write_model("row", tmp_path / "m.onnx"))
    with pytest.raises(SignatureError, match=r"^inputs: the model refuses them: .*indices element out of data bounds"):
        session.run({"x": np.array([4])}, ["y"])
    assert session.run({"x": np.array([3])}, ["y"])[0].tolist() == [[6, 7]]


def test_axes_of_one_name_that_differ(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A failure because two axes of one name differ is the client's; where the model copes, nobody is blamed."""
    session = Session(write_model("add", tmp_path / "m.onnx"))
    a, b = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    with pytest.raises(SignatureError, match="inputs: 'batch' is 2 in 'a' but 4 in 'b'"):
        session.run({"a": a, "b": b}, ["total"])
    assert session.run({"a": a, "b": b[:1]}, ["total"])[0].shape == (2, 3)


def test_a_failure_inside_the_model(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """Any other failure of the runtime is the model's."""
    session = Session(write_model("square", tmp_path / "m.onnx"))
    with pytest.raises(InferenceFailed, match="Reshape"):
        session.run({"x": np.ones(3, np.float32)}, ["y"])


def test_text_that_is_not_utf8(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """ONNX text is UTF-8; other bytes are refused instead of being mangled."""
    session = Session(write_model("identity", tmp_path / "m.onnx", TensorProto.STRING))
    with pytest.raises(SignatureError, match="'x' holds text that is not UTF-8"):
        session.run({"x": np.array([[b"\xff", b"", b""]], object)}, ["y"])


def test_warm_up(tmp_path: Path, write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up runs zeros in each batch size; without a dynamic first axis, in one."""
    seen: list[tuple[int, ...]] = []
    shrunk: list[bool] = []

    def run(_self: Session, inputs: dict[str, Any], _names: list[str], *, shrink: bool = False) -> tuple[()]:
        assert not any(one.any() for one in inputs.values())
        seen.append(inputs["x"].shape)
        shrunk.append(shrink)
        return ()

    monkeypatch.setattr(Session, "run", run)
    for shape in (["n", 3, "m", "n"], [2, "m"], []):
        measure(Session(write_model("identity", tmp_path / "m.onnx", TensorProto.FLOAT, shape)), (1, 4))
    assert list(dict.fromkeys(seen)) == [(1, 3, 1, 1), (4, 3, 1, 4), (2, 1), ()]
    assert shrunk.count(True) == 1, "only the model that ran in two batch sizes has memory to give back"
    assert seen[shrunk.index(True)] == (1, 3, 1, 1)


def test_a_model_that_cannot_warm_up(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A model that fails on zeros is told apart from one that cannot be read; no warm-up, no failure."""
    session = Session(write_model("square", tmp_path / "m.onnx"))
    with pytest.raises(WarmUpFailed, match="warm-up batch of 1"):
        measure(session, (1, 2))
    measure(session, ())


def test_what_the_protocol_cannot_express(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """An input of a foreign type makes a model useless; a foreign output is only not offered."""
    with pytest.raises(ArtifactError, match=r"input 'x' is a tensor\(bfloat16\)"):
        Session(write_model("identity", tmp_path / "m.onnx", TensorProto.BFLOAT16))
    session = Session(write_model("sequence", tmp_path / "m.onnx"))
    assert [one.name for one in session.outputs] == ["y"]
    with pytest.raises(ArtifactError, match="no output"):
        Session(write_model("sequence", tmp_path / "m.onnx", only="many"))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x09\x12\x00" * 9])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    """A corrupt file is refused with its path and one line."""
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"m\.onnx is not a model that can be run: .") as caught:
        Session(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_an_unknown_provider(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """A provider that this build of the runtime lacks is an error, not a silent fall back to the CPU."""
    with pytest.raises(SettingsError, match="has no NoSuchProvider"):
        Session(write_model("identity", tmp_path / "m.onnx"), providers=("NoSuchProvider",))


def test_external_data(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    """Weights in a file of the model's folder are read, through a link within it too."""
    (tmp_path / "w.bin").write_bytes(np.arange(3, dtype="<f4").tobytes())
    (tmp_path / "link.bin").symlink_to("w.bin")
    for location in ("w.bin", "link.bin"):
        session = Session(write_model("external", tmp_path / "m.onnx", location))
        assert session.run({"x": np.zeros((1, 3), np.float32)}, ["y"])[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "link.bin", "{absolute}", "missing.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, write_model: Callable[..., Path], location: str) -> None:
    """The runtime itself refuses external data that leaves the model's folder; this pins that promise."""
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/link.bin").symlink_to("../w.bin")
    path = write_model("external", tmp_path / "model/m.onnx", location.format(absolute=tmp_path / "w.bin"))
    with pytest.raises(ArtifactError, match=r"[Ee]xternal data path"):
        Session(path)


def test_threads_do_not_spin(tmp_path: Path, write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The session gets the threads it is told to have, and they sleep while they wait."""
    made: list[ort.SessionOptions] = []
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **rest: made.append(options) or real(path, options, **rest)
    )
    Session(write_model("identity", tmp_path / "m.onnx"), threads=3)
    assert made[0].intra_op_num_threads == 3
    assert made[0].get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert made[0].get_session_config_entry("session.inter_op.allow_spinning") == "0"
