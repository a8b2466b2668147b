from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from rollout import cli, probe_command
from rollout.errors import ConflictError
from rollout.preflight import Checks, ProbeJob
from rollout.preflight_job import read_log
from rollout.probe_answers import ServedAnswers
from rollout.probe_set import ProbeSetError
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FakeCluster

    from rollout.inference_service import InferenceService
    from rollout.record import Record
    from rollout.release import Release

WORDS = ("probe", "--url", "http://127.0.0.1:8080", "--probe-set", "set", "--version", "2")
POLICY = ("--policy-json", json.dumps({"probe_captures": 500}))
CHAMPION = ("--champion-url", "http://live", "--champion-version", "1")
TRUTH_DEG = np.tile([45.0, 7.5], (600, 1))


class ProbeSet:
    """Six hundred captures, each of a position of its own."""

    levels = (0.5, 0.95)
    position = np.arange(600)
    truth_deg = TRUTH_DEG


def answers(spread_m: float, *, failed: int = 0) -> ServedAnswers:
    """Honest ellipses of 1 km around the truth if the spread is 1 km too."""
    rng = np.random.default_rng(3)
    offset_deg = rng.normal(size=(600, 2)) * spread_m / np.array([111_132.0, 78_850.0])
    offset_deg[:failed] = np.nan
    covariance = np.tile(np.eye(2) * 1e6, (600, 1, 1))
    k95, k50 = np.sqrt(-2 * np.log(0.05)), np.sqrt(-2 * np.log(0.5))
    ellipse = np.tile([k95 * 1e3, k95 * 1e3, 0.0], (600, 1))
    return ServedAnswers(TRUTH_DEG + offset_deg, covariance, ellipse, np.full(600, 0.5), (k50 / k95, 1.0))


@pytest.fixture
def run(logged: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, Any]]:
    """Runs the command against services whose answers are given by URL."""

    def run(*words: str, **served: ServedAnswers) -> tuple[int, Any]:
        code, log = logged(*words, "--output", "json", **served)
        return code, json.loads(log.splitlines()[-1])

    return run


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The same, with these words alone and with the container's whole log."""

    def logged(*words: str, **served: ServedAnswers) -> tuple[int, str]:
        class Service:
            def __init__(self, url: str, host: str | None, model_name: str) -> None:  # noqa: ARG002 - the interface
                """Known by the last word of its URL."""
                assert model_name == "localization"
                self._answers = served["live" if "live" in url else "local"]

            def answers(self, *_: object) -> tuple[ServedAnswers, ...]:
                """Of one version."""
                return (self._answers,)

        monkeypatch.setattr(probe_command, "ProbeService", Service)
        monkeypatch.setattr(probe_command, "parse_manifest", lambda _: ProbeSet())
        code = cli.main(words)
        return code, capsys.readouterr().out

    class Folder:
        def read(self, _: str) -> bytes:
            """Never looked at."""
            return b""

    monkeypatch.setattr(probe_command, "open_folder", lambda _: Folder())
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200))
    return logged


def test_an_honest_version_passes(run: Callable[..., tuple[int, Any]]) -> None:
    """Alone by its honesty, and beside the champion by its errors as well."""
    code, said = run(*WORDS, *POLICY, local=answers(1e3))
    assert (code, said["outcome"]) == (0, "pass")
    code, said = run(*WORDS, *POLICY, *CHAMPION, local=answers(1e3), live=answers(1e3))
    assert (code, len(said["reasons"])) == (0, 5)


@pytest.mark.parametrize(("spread_m", "outcome"), [(1e3, Outcome.PASS), (3e3, Outcome.FAIL)])
def test_the_jobs_own_words_give_a_log_that_is_read(
    logged: Callable[..., tuple[int, str]],
    cluster: FakeCluster,
    service: InferenceService,
    record: Record,
    release: Callable[..., Release],
    spread_m: float,
    outcome: Outcome,
) -> None:
    """What pre-flight tells the container to run ends with the line that pre-flight looks for.

    The release's policy goes with it: by the default one the probe set would be too small.
    """
    job: dict[str, Any] = {}

    def created(path: str, body: dict[str, Any]) -> None:
        job.update(body)
        raise ConflictError(path)

    cluster.create = created  # type: ignore[method-assign,assignment]  # the Job is only looked at
    checks = Checks(cluster, service, record, None, ProbeJob("image", "s3://probe"))  # type: ignore[arg-type]  # what is used
    with pytest.raises(ConflictError):
        checks(release())
    words = job["spec"]["template"]["spec"]["containers"][-1]["args"]
    _, log = logged(*words, local=answers(spread_m), live=answers(1e3))
    found = read_log(log)
    assert found.outcome is outcome, found.sentence


def test_a_dishonest_one_fails(run: Callable[..., tuple[int, Any]]) -> None:
    """Every failed signal is in the sentence, which becomes the reason of the refusal."""
    code, said = run(*WORDS, *POLICY, *CHAMPION, local=answers(3e3), live=answers(1e3))
    assert (code, said["outcome"]) == (1, "fail")
    assert "NEES" in said["sentence"]
    assert "RMS" in said["sentence"]


def test_the_policy_is_the_given_one(run: Callable[..., tuple[int, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """What a user allows is not refused by the defaults, which hold where no policy is given."""
    code, said = run(*WORDS, local=answers(1e3))
    assert (code, "2500 are needed" in said["sentence"]) == (3, True)
    lax = {"nees_highest": 100.0, "coverage_tolerance": 0.5, "allowed_rms_ratio": 100.0}
    lax |= {"allowed_log_likelihood_loss": 10.0, "probe_captures": 500}
    for policy, outcome in ((POLICY, "fail"), (("--policy-json", json.dumps(lax)), "pass")):
        _, said = run(*WORDS, *policy, *CHAMPION, local=answers(1.5e3), live=answers(1e3))
        assert said["outcome"] == outcome
    with pytest.raises(SystemExit):
        cli.main([*WORDS, "--policy-json", "{"])
    assert "not JSON" in capsys.readouterr().err


def test_answers_that_are_missing_are_inconclusive(run: Callable[..., tuple[int, Any]]) -> None:
    """Exit code 3."""
    code, said = run(*WORDS, *POLICY, local=answers(1e3, failed=2))
    assert (code, said["outcome"]) == (3, "inconclusive")
    assert "the canary 2" in said["sentence"]


def test_what_keeps_it_from_asking(run: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """No address, a damaged probe set, a service that is never ready: each is told."""
    code, said = run("probe", "--version", "2")
    assert (code, said["sentence"]) == (2, "--url and --probe-set are needed")
    monkeypatch.setattr(probe_command, "_READY_S", 0.02)
    monkeypatch.setattr(probe_command, "_POLL_S", 0.01)
    asked: list[str] = []
    monkeypatch.setattr(httpx, "get", lambda url, **_: asked.append(url) or httpx.Response(503))  # type: ignore[func-returns-value]  # listens
    code, said = run(*WORDS, "--model-name", "radio_model")
    assert (code, "it is not ready" in said["sentence"]) == (3, True)
    assert set(asked) == {"http://127.0.0.1:8080/v2/models/radio_model/ready"}

    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx, "get", refuse)
    code, said = run(*WORDS)
    assert (code, "refused" in said["sentence"]) == (3, True)
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200))

    def damaged(_: str) -> None:
        raise ProbeSetError("no manifest")

    monkeypatch.setattr(probe_command, "open_folder", damaged)
    code, said = run(*WORDS)
    assert (code, said["sentence"]) == (3, "inconclusive: the probe set cannot be used: no manifest")
