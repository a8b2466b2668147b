"""The demonstration as `make demo` starts it, a browser, and the documents as text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from held_port import held_port
from selenium import webdriver

from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver

_START_S, _STOP_S, _PAGE_S = 90.0, 30.0, 30.0
_FENCE = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Demo:
    """The demonstration while it serves.

    Attributes:
        folder: Its working folder: `build/demo/request.json` is there, as it would be in the repository's root.
        http_port: The transformer's.
        predictor_port: The predictor's.
    """

    folder: Path
    http_port: int
    predictor_port: int

    @property
    def url(self) -> str:
        """The transformer's base URL."""
        return f"http://127.0.0.1:{self.http_port}"

    def here(self, text: str) -> str:
        """An example from the documents with this demonstration's ports for the usual ones."""
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.http_port}").replace(
            "127.0.0.1:8081", f"127.0.0.1:{self.predictor_port}"
        )


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: its language, what stands behind that, and its text."""

    place: str
    language: str
    note: str
    text: str


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> Path:
    """The repository."""
    return pytestconfig.rootpath


@pytest.fixture(scope="session")
def blocks() -> Callable[[Path], list[Block]]:
    """Finds the fenced blocks of a document."""

    def found(path: Path) -> list[Block]:
        text = path.read_text(encoding="utf-8")
        return [
            Block(f"{path.name}:{text[: match.start()].count(chr(10)) + 1}", match[2], match[3].strip(), match[4])
            for match in _FENCE.finditer(text)
        ]

    return found


@pytest.fixture(scope="session")
def demo(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """`make demo` with ports of its own, until the session ends."""
    folder = tmp_path_factory.mktemp("demo")
    model = prepare(root / "build" / "reference")["reference"]
    shutil.copytree(model, folder / "build/demo/models/reference")
    demo = Demo(folder, held_port(), held_port())
    ports = ["--http_port", str(demo.http_port), "--predictor_port", str(demo.predictor_port)]
    with _running([sys.executable, "-m", "reference", "demo", *ports], folder):
        yield demo


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    """The demonstration, from the moment that it serves."""
    with _process(command, folder / "log", cwd=folder) as process:
        _wait(process, folder / "log", "serving until")
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Path, int]]]:
    """Starts a component with options and variables of its own; its log, and the port where it listens."""
    with ExitStack() as running:

        def component(name: str, *options: str, **environ: str) -> tuple[Path, int]:
            port, log = held_port(), tmp_path / f"{name}.log"
            ports = ["--http_port", str(port), "--enable_grpc", "false", "--drain_s", "0"]
            command = [sys.executable, "-m", name, "--model_name", "localization", *ports, *options]
            process = running.enter_context(_process(command, log, **environ))
            _wait(process, log, "Uvicorn running")
            return log, port

        yield component


@contextmanager
def _process(
    command: list[str], log: Path, cwd: Path | None = None, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environ}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=cwd, env=variables)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _wait(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    """Until these words stand in the log."""
    deadline_s = time.monotonic() + _START_S
    while words not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline_s:
            pytest.fail(f"not started:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


@pytest.fixture
def browser() -> Iterator[WebDriver]:
    """A headless Chromium that remembers what its console said and what its pages asked the network for."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    running.set_page_load_timeout(_PAGE_S)
    try:
        yield running
    finally:
        running.quit()
