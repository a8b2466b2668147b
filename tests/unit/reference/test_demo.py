from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from reference import demo
from reference.errors import ServiceFailed
from reference.estimates import Estimates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reference.simulate import Captures


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Two ports of loopback that are free, and that nobody else is given meanwhile."""
    with socket.socket() as first, socket.socket() as second:
        for holder in (first, second):
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener that sets it too may have it
            holder.bind(("127.0.0.1", 0))
        yield [first.getsockname()[1], second.getsockname()[1]]


def predict(url: str, body: bytes) -> dict[str, object]:
    """POST the example request as the printed curl line does."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        members: dict[str, object] = orjson.loads(answer.read())
    return members


def test_table_has_a_line_per_capture(drawn: Captures) -> None:
    """Truth, estimate, error in km, ellipse and confidence of a known answer can be read off."""
    one = drawn.first(1)
    estimates = Estimates(
        one.position_deg + np.array([0.09, 0.0]),
        np.eye(2)[None],
        np.array([0.25]),
        {0.95: np.array([[40e3, 10e3, 33.0]])},
    )
    line = demo.table(one, estimates).splitlines()[1]
    assert f"{one.position_deg[0, 0]:.4f}" in line
    assert "10.0 km" in line
    assert "40.0 × 10.0 km @  33°" in line
    assert line.endswith("0.25")


def test_demo_serves_until_interrupted(
    tmp_path: Path,
    ports: list[int],
    model_path: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both real servers answer, the map and a working example are written, and Ctrl-C ends everything in order."""
    url = f"http://127.0.0.1:{ports[0]}/api/v1/inference/predict"
    answers = []

    def interrupted(_processes: object) -> None:
        answers.append(predict(url, (tmp_path / "request.json").read_bytes()))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "prepare", lambda _directory: {"reference": model_path("reference").parent})
    monkeypatch.setattr(demo, "_watch", interrupted)
    demo.run(demo.Demo(tmp_path, ports[0], ports[1]))
    printed = capsys.readouterr().out
    assert printed.count("km @") == 12
    assert f"{url}\n" in printed
    assert "position" in answers[0]
    assert (tmp_path / "map.html").exists()
    for port in ports:
        demo.require_free(port, "--http_port")


def test_server_that_ends_while_serving_is_noticed() -> None:
    """The demonstration does not serve on with one server gone."""
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    expected = pytest.raises(ServiceFailed, match="the predictor ended with status 3")
    with subprocess.Popen(command) as process, expected:
        demo._watch({"predictor": process})  # noqa: SLF001 - it would wait for ever if the end went unnoticed


def test_server_that_ends_is_named_with_its_log(
    tmp_path: Path, ports: list[int], model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predictor that cannot load its model ends the demonstration with the predictor's name and log."""
    corrupt = {"reference": model_path("corrupt").parent}
    monkeypatch.setattr(demo, "prepare", lambda _directory: corrupt)
    with pytest.raises(ServiceFailed, match=r"the predictor ended with status \d+; see .*predictor\.log"):
        demo.run(demo.Demo(tmp_path, ports[0], ports[1], oneshot=True))


def test_server_that_never_gets_ready_is_given_up(
    tmp_path: Path, ports: list[int], model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predictor whose first run never ends is given up at the deadline, and killed when it does not obey."""
    endless = {"reference": model_path("never_ready").parent}
    monkeypatch.setattr(demo, "prepare", lambda _directory: endless)
    monkeypatch.setattr(demo, "_READY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(demo, "_STOP_TIMEOUT_S", 0.5)
    with pytest.raises(ServiceFailed, match=r"the predictor was not ready within 1 s"):
        demo.run(demo.Demo(tmp_path, ports[0], ports[1], oneshot=True))
