from __future__ import annotations

import json
import shutil
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from reference import __main__ as program
from reference.capture_file import prepare_captures
from reference.demo import require_free
from reference.errors import PortTaken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The program's handler of SIGTERM must not outlive the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_make_writes_models_and_captures(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str], model_path: Callable[[str], Path]
) -> None:
    """`make` names every file that it made or found."""
    model_path("reference")
    directory = pytestconfig.rootpath / "build" / "reference"
    assert program.main(["make", str(directory), "--captures", "3", "--variants", "reference"]) == 0
    model, file = capsys.readouterr().out.split()
    assert model.endswith("models/reference/model.onnx")
    assert file.endswith("captures.npz")


def test_evaluate_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_path: Callable[[str], Path]
) -> None:
    """`evaluate --model` judges captures from a file without any server."""
    file, model = prepare_captures(tmp_path, 8), model_path("reference")
    assert program.main(["evaluate", "--model", str(model), "--captures", str(file), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 8


def test_evaluate_prints_text(capsys: pytest.CaptureFixture[str], model_path: Callable[[str], Path]) -> None:
    """`evaluate` simulates its cases unless a file is given."""
    assert program.main(["evaluate", "--model", str(model_path("reference")), "--cases", "4"]) == 0
    assert "cases           4" in capsys.readouterr().out


def test_service_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A connection that is refused ends the program with status 1 and one line that names the address."""
    assert program.main(["evaluate", "--url", "http://127.0.0.1:9", "--host", "a.example", "--cases", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("reference: http://127.0.0.1:9/v2/models/localization/infer cannot be asked")
    assert error.count("\n") == 1


def test_demo_names_the_port_that_is_taken(tmp_path: Path, taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A busy port ends the demonstration before anything is trained or started."""
    assert program.main(["demo", "--dir", str(tmp_path), "--http_port", str(taken_port)]) == 1
    assert f"port {taken_port} is in use; choose another with --http_port" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_free_port_is_accepted(taken_port: int) -> None:
    """Only a port that something listens on is refused."""
    with pytest.raises(PortTaken, match=r"--predictor_port"):
        require_free(taken_port, "--predictor_port")
    require_free(0, "--predictor_port")


def test_interrupt_ends_with_the_shells_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is not a traceback: status 130, as a shell expects."""

    def interrupted(_demo: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reference.demo.run", interrupted)
    assert program.main(["demo"]) == 130


def test_files_that_hold_nothing_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A captures file that is none ends the program with its name."""
    (tmp_path / "captures.npz").write_bytes(b"nothing")
    assert program.main(["evaluate", "--url", "http://127.0.0.1:9", "--captures", str(tmp_path / "captures.npz")]) == 1
    assert "holds no captures" in capsys.readouterr().err
    shutil.rmtree(tmp_path)
