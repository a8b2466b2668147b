from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from rollout import cli, probe_command
from rollout.probe_answers import ServedAnswers
from rollout.probe_set import ProbeSetError

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = ("probe", "--url", "http://127.0.0.1:8080", "--probe-set", "set", "--version", "2", "--captures", "500")
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
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Runs the command against services whose answers are given by URL."""

    def run(*words: str, **served: ServedAnswers) -> tuple[int, Any]:
        class Service:
            def __init__(self, url: str, host: str | None) -> None:  # noqa: ARG002 - the interface
                """Known by the last word of its URL."""
                self._answers = served["live" if "live" in url else "local"]

            def answers(self, *_: object) -> tuple[ServedAnswers, ...]:
                """Of one version."""
                return (self._answers,)

        monkeypatch.setattr(probe_command, "ProbeService", Service)
        monkeypatch.setattr(probe_command, "parse_manifest", lambda _: ProbeSet())
        code = cli.main([*words, "--output", "json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    class Folder:
        def read(self, _: str) -> bytes:
            """Never looked at."""
            return b""

    monkeypatch.setattr(probe_command, "open_folder", lambda _: Folder())
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200))
    return run


def test_an_honest_version_passes(run: Callable[..., tuple[int, Any]]) -> None:
    """Alone by its honesty, and beside the champion by its errors as well."""
    code, said = run(*WORDS, local=answers(1e3))
    assert (code, said["outcome"]) == (0, "pass")
    code, said = run(*WORDS, *CHAMPION, local=answers(1e3), live=answers(1e3))
    assert (code, len(said["reasons"])) == (0, 5)


def test_a_dishonest_one_fails(run: Callable[..., tuple[int, Any]]) -> None:
    """Every failed signal is in the sentence, which becomes the reason of the refusal."""
    code, said = run(*WORDS, *CHAMPION, local=answers(3e3), live=answers(1e3))
    assert (code, said["outcome"]) == (1, "fail")
    assert "NEES" in said["sentence"]
    assert "RMS" in said["sentence"]


def test_answers_that_are_missing_are_inconclusive(run: Callable[..., tuple[int, Any]]) -> None:
    """Exit code 3."""
    code, said = run(*WORDS, local=answers(1e3, failed=2))
    assert (code, said["outcome"]) == (3, "inconclusive")
    assert "the canary 2" in said["sentence"]


def test_what_keeps_it_from_asking(run: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """No address, a damaged probe set, a service that is never ready: each is told."""
    code, said = run("probe", "--version", "2")
    assert (code, said["sentence"]) == (2, "--url and --probe-set are needed")
    monkeypatch.setattr(probe_command, "_READY_S", 0.02)
    monkeypatch.setattr(probe_command, "_POLL_S", 0.01)
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(503))
    code, said = run(*WORDS)
    assert (code, "it is not ready" in said["sentence"]) == (3, True)

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
