from __future__ import annotations

import threading
import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rollout import coverage_watch
from rollout.coverage import Coverage, Runs, exposition, measured
from rollout.coverage_watch import Exporter, Watch, main, measure
from rollout.evidence import EvidenceUnavailable
from rollout.probe_answers import ServedAnswers
from rollout.probe_run import Version
from rollout.probe_set import ProbeSet, ProbeSetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOUND = Coverage("3", (0.5, 0.95), (0.25, 0.75), 4, 1234.5)


def _told(text: str) -> dict[tuple[str, ...], float]:
    """What a scrape says, by prometheus-client's own parser."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_shares_of_captures_and_positions() -> None:
    """At each level an ellipse holds the truth or not, no answer holds nothing; captures of one position count once."""
    truth = np.array([[45.0, 7.0], [45.0, 7.0], [45.1, 7.0], [45.2, 7.0]])
    probe_set = ProbeSet("sha256:0", "", (0.5, 0.95), truth, np.array([0, 0, 1, 2]), np.full(4, -50.0), (7, 4_480), ())
    answers = truth.copy()
    answers[1, 0] += 0.01  # 1.1 km north: outside of the small ellipse, within the large one
    answers[2, 0] += 1.0
    answers[3] = np.nan
    served = ServedAnswers(
        answers, np.tile(np.eye(2), (4, 1, 1)), np.tile([2_000.0, 2_000.0, 0.0], (4, 1)), np.full(4, 0.5), (0.5, 1.0)
    )
    found = measured("3", probe_set, served)
    assert (found.version, found.levels, found.positions) == ("3", (0.5, 0.95), 3)
    assert found.inside == (0.25, 0.5)
    assert found.rms_error_m == pytest.approx(np.sqrt((1_112.0**2 + 111_200.0**2) / 3), rel=0.01)
    answers[:] = np.nan
    nothing = measured("3", probe_set, served)
    assert nothing.inside == (0.0, 0.0)
    assert np.isnan(nothing.rms_error_m)


def test_a_scrape() -> None:
    """Prometheus' own parser reads every figure; before the first run there are counters alone."""
    assert _told(exposition(Runs(failed=2))) == {
        ("heimdall_probe_runs_total", "ok"): 0,
        ("heimdall_probe_runs_total", "failed"): 2,
    }
    told = _told(exposition(Runs(1, 2, 99.0, FOUND)))
    assert told["heimdall_probe_coverage_ratio", "3", "0.5"] == 0.25
    assert told["heimdall_probe_coverage_ratio", "3", "0.95"] == 0.75
    assert told["heimdall_probe_claimed_ratio", "3", "0.95"] == 0.95
    assert told["heimdall_probe_positions", "3"] == 4
    assert told["heimdall_probe_error_rms_meters", "3"] == 1234.5
    assert told[("heimdall_probe_last_success_timestamp_seconds",)] == 99.0
    odd = Runs(1, 0, 1.0, Coverage('a"\\\n', (0.5,), (0.5,), 1, float("nan")))
    assert ("heimdall_probe_positions", 'a"\\\n') in _told(exposition(odd))


@pytest.mark.parametrize("error", [EvidenceUnavailable("away"), ProbeSetError("damaged")])
def test_a_failed_run_keeps_the_last_figures(error: Exception) -> None:
    """What was measured stays, with its time; the failure is counted."""
    outcomes: list[Coverage | Exception] = [FOUND, error]

    def run() -> Coverage:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    watch = Watch(run)
    before_s = time.time()
    watch.once()
    watch.once()
    told = _told(watch.text())
    assert told["heimdall_probe_runs_total", "ok"] == told["heimdall_probe_runs_total", "failed"] == 1
    assert told["heimdall_probe_coverage_ratio", "3", "0.5"] == 0.25
    assert told[("heimdall_probe_last_success_timestamp_seconds",)] >= before_s


def test_what_nobody_thought_of_is_a_failed_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, probe_folder: Path
) -> None:
    """It is counted and in the log with its traceback, and the loop goes on: here httpx refuses the address itself."""
    handlers: list[Callable[[], None]] = []
    failed = threading.Semaphore(0)
    once = Watch.once

    def counted(watch: Watch) -> None:
        once(watch)
        if _told(watch.text())["heimdall_probe_runs_total", "failed"] >= 1:
            failed.release()

    monkeypatch.setattr(Watch, "once", counted)
    monkeypatch.setattr(coverage_watch.signal, "signal", lambda _, handler: handlers.append(handler))
    words = ["--url", "http://[::1", "--probe-set", str(probe_folder), "--every-s", "0.01", "--port", "0"]
    running = threading.Thread(target=main, args=(words,))
    running.start()
    went_on = all(failed.acquire(timeout=10) for _ in range(2))
    handlers[0]()
    running.join(10)
    assert went_on
    assert "InvalidURL" in caplog.text


def test_the_exporter_answers_scrapes_alone() -> None:
    """GET /metrics in Prometheus' format; any other path is 404."""
    with Exporter(0, lambda: "a 1\n") as exporter:
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{exporter.server_port}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            assert answer.read() == b"a 1\n"
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{url}/other", timeout=5)
        refused.value.close()
        assert refused.value.code == 404
        exporter.shutdown()


@pytest.mark.parametrize("body", [b"{", b'{"name":"m","platform":"p","inputs":[],"outputs":[]}'])
def test_a_service_that_names_no_version(
    body: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probe_folder: Path
) -> None:
    """Metadata that cannot be read, or names no version, is no evidence; nor is a service that is away."""
    url = "http://127.0.0.1:9"
    with pytest.raises(EvidenceUnavailable, match=r"127\.0\.0\.1:9"):
        measure(url, None, str(probe_folder))
    monkeypatch.setattr(
        httpx, "get", lambda address, **_: httpx.Response(200, content=body, request=httpx.Request("GET", address))
    )
    with pytest.raises(EvidenceUnavailable):
        measure(url, "host", str(probe_folder))
    with pytest.raises(ProbeSetError):
        measure(url, None, str(tmp_path / "none"))


@pytest.mark.parametrize(("unanswered", "known"), [(1, "known"), (2, ""), (100, "")])
def test_a_run_that_was_hardly_answered_says_nothing(
    unanswered: int, known: str, monkeypatch: pytest.MonkeyPatch, probe_folder: Path
) -> None:
    """A service that fails for a moment has not become dishonest; one capture in a hundred may be left out."""
    position = np.tile([45.0, 7.0], (100, 1))
    probe_set = ProbeSet("sha256:0", "", (0.5,), position.copy(), np.arange(100), np.full(100, -50.0), (7, 4_480), ())
    position[:unanswered] = np.nan
    ones = np.ones(100)
    served = ServedAnswers(position, np.tile(np.eye(2), (100, 1, 1)), np.tile([1.0, 1.0, 0.0], (100, 1)), ones, (1.0,))

    class Service:
        def __init__(self, *_: object, **__: object) -> None:
            """Anywhere."""

        def answers(self, *_: object) -> tuple[ServedAnswers, ...]:
            """Of the version that is served."""
            return (served,)

    monkeypatch.setattr(coverage_watch, "ProbeService", Service)
    monkeypatch.setattr(coverage_watch, "parse_manifest", lambda _: probe_set)
    monkeypatch.setattr(coverage_watch, "_served", lambda *_: Version("3"))
    if known:
        assert measure("http://service", None, str(probe_folder)).inside == (0.99,)
        return
    with pytest.raises(EvidenceUnavailable, match=f"version 3 left {unanswered} of 100 captures unanswered"):
        measure("http://service", None, str(probe_folder))


@pytest.fixture
def probe_folder(tmp_path: Path) -> Path:
    """A probe set of nothing but its manifest."""
    folder = tmp_path / "probe-set"
    folder.mkdir()
    (folder / "manifest.json").write_text(
        '{"schema":"heimdall.probe-set/1","origin":"","levels":[0.5],"latitude":[45.0],"longitude":[7.0],'
        '"position":[0],"full_scale_dbm":[-50.0],"shape":[7,4480],'
        '"chunks":[{"file":"0000.npz","captures":1,"sha256":"0"}]}'
    )
    return folder


def test_the_command_runs_until_it_is_ended(monkeypatch: pytest.MonkeyPatch, probe_folder: Path) -> None:
    """It measures at once, then every so many seconds, until a signal."""
    runs = threading.Semaphore(0)
    handlers: list[object] = []

    def once(_watch: Watch) -> None:
        runs.release()

    monkeypatch.setattr(Watch, "once", once)
    monkeypatch.setattr(coverage_watch.signal, "signal", lambda _, handler: handlers.append(handler))
    words = ["--url", "http://127.0.0.1:9", "--probe-set", str(probe_folder), "--every-s", "0.01", "--port", "0"]
    running = threading.Thread(target=main, args=(words,))
    running.start()
    assert all(runs.acquire(timeout=10) for _ in range(3))
    handlers[0]()  # type: ignore[operator]  # a signal handler
    running.join(10)
    assert not running.is_alive()


def test_the_model_may_have_another_name(monkeypatch: pytest.MonkeyPatch, probe_folder: Path) -> None:
    """The name stands in every URL of the service."""
    asked: list[str] = []

    def get(address: str, **_: object) -> httpx.Response:
        asked.append(address)
        raise httpx.ConnectError("away")

    monkeypatch.setattr(httpx, "get", get)
    with pytest.raises(EvidenceUnavailable):
        measure("http://service/", None, str(probe_folder), "radio_model")
    assert asked == ["http://service/v2/models/radio_model"]


def test_the_command_needs_to_know_whom_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a service and a probe set it ends with the usage."""
    with pytest.raises(SystemExit):
        main([])
    assert "--url, --probe-set" in capsys.readouterr().err
