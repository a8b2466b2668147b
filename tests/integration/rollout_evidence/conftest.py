"""A real Prometheus, releases to be judged, and the two arms of tests/integration/arms."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rollout.policy import Policy
from rollout.release import ModelVersion, Release, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_START_S, _STOP_S = 60.0, 20.0
_SCRAPE_S = 0.5


def _module_of_arms() -> Any:  # noqa: ANN401 - a module
    """The conftest of the arms' tests: with --import-mode=importlib it cannot be imported by name."""
    path = Path(__file__).parents[1] / "arms" / "conftest.py"
    spec = importlib.util.spec_from_file_location("arms_of_a_release", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


arms = _module_of_arms()
account, body_of = arms.account, arms.body_of


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str
    process: subprocess.Popen[bytes]
    ports: tuple[int, ...]

    def wait_for_scrape(self) -> None:
        """Until whatever is counted now has been read: two scrapes and the time that one takes to be stored.

        On a busy machine that takes as long as it takes, until each process that is there was read.
        """
        now_s = time.time()
        time.sleep(2.0 * _SCRAPE_S + 0.5)
        there = {f"127.0.0.1:{port}" for port in self.ports if _listens(port)}
        _wait(lambda: there <= set(_up(self.url, now_s + _SCRAPE_S)), lambda: f"only {_up(self.url)} are read")


@pytest.fixture
def prometheus(tmp_path: Path, unused_port: Callable[[], int]) -> Iterator[Callable[..., Prometheus]]:
    """Starts a Prometheus that reads these ports of 127.0.0.1 twice a second."""
    program = shutil.which("prometheus")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no prometheus on the PATH")
    running: list[subprocess.Popen[bytes]] = []

    def start(*ports: int) -> Prometheus:
        targets = [f"127.0.0.1:{port}" for port in ports]
        config = {
            "global": {"scrape_interval": f"{int(1e3 * _SCRAPE_S)}ms", "scrape_timeout": f"{int(1e3 * _SCRAPE_S)}ms"},
            "scrape_configs": [{"job_name": "transformer", "static_configs": [{"targets": targets}]}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = unused_port()
        command = [program, "--config.file", "prometheus.yml", "--storage.tsdb.path", "data"]
        command += ["--web.listen-address", f"127.0.0.1:{port}", "--log.level", "warn"]
        with (tmp_path / "prometheus.log").open("ab") as log:
            running.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        found = Prometheus(f"http://127.0.0.1:{port}", running[-1], ports)
        _wait(lambda: _answers(f"{found.url}/-/ready"), (tmp_path / "prometheus.log").read_text)
        _wait(lambda: len(_up(found.url)) == len(ports), lambda: f"only {_up(found.url)} are read")
        return found

    yield start
    for process in running:
        process.terminate()
        process.wait(_STOP_S)


def _wait(condition: Callable[[], bool], describe: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(describe())
        time.sleep(0.1)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _up(url: str, since_s: float = 0.0) -> list[str]:
    """The targets that were read since then."""
    query = urllib.parse.quote(f"timestamp(up == 1) >= {since_s:.3f}")
    with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=5) as answer:
        return [one["metric"]["instance"] for one in json.load(answer)["data"]["result"]]


@pytest.fixture(scope="session")
def unused_port() -> Iterator[Callable[[], int]]:
    """Finds TCP ports that nobody listens on, and holds them, so that the kernel gives them to nobody else."""
    held: list[socket.socket] = []

    def find() -> int:
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener that sets it too may have the port
        holder.bind(("127.0.0.1", 0))
        held.append(holder)
        return int(holder.getsockname()[1])

    yield find
    for one in held:
        one.close()


@pytest.fixture
def begun() -> Callable[..., Release]:
    """Makes a release whose step begins now."""

    def make(**policy: Any) -> Release:  # noqa: ANN401 - any setting of a policy
        now = datetime.now(UTC)
        champion, challenger = (ModelVersion("localization", number, "", "") for number in ("1", "2"))
        return Release(
            release_id="r-1",
            namespace="radio",
            service="loc",
            challenger=challenger,
            champion=champion,
            policy=Policy(**policy),
            stage=Stage.CANARY,
            step=0,
            began_at=now,
            step_began_at=now,
            live=True,
            revision=arms.CANARY[0],
            stable_revision=arms.STABLE[0],
        )

    return make


class _QuicklySettled:
    """A fleet whose transformers count durations after one second instead of ten."""

    def __init__(self, fleet: Any) -> None:  # noqa: ANN401 - of the integration tests
        self._fleet = fleet
        self.predictor = fleet.predictor

    def _start(self, component: str, options: tuple[str, ...], http_port: int) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        return self._fleet._start(component, (*options, "--settling_s", "1"), http_port)  # noqa: SLF001 - see above


@pytest.fixture
def two_arms(
    fleet: Any,  # noqa: ANN401 - of the integration tests
    model_dir: Callable[[str], Path],
    account: Path,
) -> Callable[[str], Any]:
    """Makes releases of a variant of the model beside the reference; each is a context manager."""

    @contextmanager
    def make(variant: str) -> Iterator[Any]:
        folders = {"reference": model_dir("reference"), "better": model_dir(variant)}
        with arms._released(_QuicklySettled(fleet), folders.__getitem__, account) as release:  # noqa: SLF001 - see `_module_of_arms`
            yield release

    return make
