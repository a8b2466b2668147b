"""Arguments, output and exit codes of `heimdall`, without a cluster."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from oip import __version__
from rollout import cli, exit_codes
from rollout.arguments import parse
from rollout.errors import ClusterError, DeniedError, HeldError, RegistryError, UsageError
from rollout.evidence import EvidenceUnavailable
from rollout.release import Event, Stage
from rollout.steps import Ended
from rollout.terminal import JsonOutput, TerminalOutput
from rollout.verdict import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rollout.release import Release

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
VERDICT = Verdict(Outcome.FAIL, (Reason("errors", Outcome.FAIL, 0.2, 0.1, "too [many] errors"),), ("a note",))


def test_the_command_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """`heimdall` is a command of the installed project, by the entry point that pyproject.toml names."""
    (command,) = entry_points(group="console_scripts", name="heimdall")
    main = command.load()
    assert main is cli.main
    for option, told in (("--help", "usage: heimdall"), ("--version", __version__)):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert not ended.value.code
        assert told in capsys.readouterr().out


def test_only_a_report_draws() -> None:
    """Matplotlib takes its time, and writes when it is imported, which a container may not be allowed to."""
    script = "import sys, rollout.cli; print(sorted({'matplotlib', 'mlflow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_the_environment_gives_defaults_and_options_stand_above() -> None:
    """A Job needs no options; a person may still say otherwise."""
    environ = {"HEIMDALL_NAMESPACE": "radio", "HEIMDALL_PROMETHEUS_URL": "http://p", "HEIMDALL_SERVICE": ""}
    found = parse(["release", "--namespace", "other", "--output", "json"], environ)
    assert (found.namespace, found.service, found.prometheus) == ("other", "localization", "http://p")
    assert (found.command, found.reference, found.json, found.policy) == ("release", "challenger", True, None)
    assert found.image.startswith("docker.io/heimdall/rollout:")


def test_a_policy_is_read_from_a_file(tmp_path: Path) -> None:
    """TOML or JSON, also named by the environment."""
    (tmp_path / "p.toml").write_text("steps_percent = [10]\n")
    (tmp_path / "p.json").write_text('{"steps_percent": [20]}')
    found = parse(["release", "7", "--policy", str(tmp_path / "p.toml")], {"HEIMDALL_POLICY": str(tmp_path / "p.json")})
    assert found.policy is not None
    assert (found.reference, found.policy.steps_percent) == ("7", (10,))
    named = parse(["canary", "--percent", "5"], {"HEIMDALL_POLICY": str(tmp_path / "p.json")})
    assert named.policy is not None
    assert (named.percent, named.policy.steps_percent) == (5, (20,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["canary", "--percent", "100"], "from 1 to 99"),
        (["release", "--policy", "/nowhere.toml"], "/nowhere.toml"),
        (["release", "--unknown"], "--unknown"),
    ],
)
def test_a_wrong_command_line_is_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With code 2 and the word that is wrong."""
    with pytest.raises(SystemExit) as ended:
        parse(words, {})
    assert ended.value.code == exit_codes.USAGE
    assert message in capsys.readouterr().err


def test_help_tells_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """The codes are part of the interface."""
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    told = capsys.readouterr().out
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert f"\n  {code}  " in told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HeldError("held"), 4),
        (DeniedError("denied"), 4),
        (UsageError("what"), 2),
        (EvidenceUnavailable("away"), 3),
        (ClusterError("away"), 5),
        (RegistryError("away"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is one line, no traceback."""

    def fail(*_: Any) -> int:  # noqa: ANN401 - the interface
        raise error

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["status"]) == code
    told = capsys.readouterr().out
    assert len(told.strip().splitlines()) == 1
    assert cli.main(["status", "--output", "json"]) == code
    assert json.loads(capsys.readouterr().out)["type"] == "error"


def test_sigterm_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the lease is given back when Kubernetes ends the pod."""
    import os  # noqa: PLC0415 - only here
    import signal  # noqa: PLC0415 - only here

    def killed(*_: Any) -> int:  # noqa: ANN401 - the interface
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(cli, "run", killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["status"]) == exit_codes.INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("stage", "outcome", "code"),
    [
        (Stage.PROMOTED, Outcome.PASS, 0),
        (Stage.CANARY, Outcome.PASS, 0),
        (Stage.ROLLED_BACK, Outcome.PASS, 1),
        (Stage.REFUSED, Outcome.PASS, 4),
        (Stage.CANARY, Outcome.INCONCLUSIVE, 3),
        (Stage.CANARY, Outcome.ERROR, 5),
    ],
)
def test_every_end_has_its_exit_code(
    release: Callable[..., Release], stage: Stage, outcome: Outcome, code: int
) -> None:
    """What a script does next depends on it."""
    assert exit_codes.of(Ended(release(stage=stage), outcome, "so")) == code


def test_what_people_see(release: Callable[..., Release]) -> None:
    """Events, tables of reasons and warnings; brackets in a sentence are no markup."""
    text = io.StringIO()
    output = TerminalOutput(Console(file=text, width=200, highlight=False, soft_wrap=True))
    one = release(stage=Stage.CANARY)
    output.waiting(one, "waiting")
    output.waiting(one, "still waiting")
    output.happened(Event(NOON, Stage.CANARY, 5, "began [here]"))
    output.judged(one, VERDICT)
    output.waiting(release(), "checking")
    output.warned("odd")
    output.noted("by the way")
    output.failed("[bad]")
    output.result({}, ["done"])
    output.happened(Event(NOON, Stage.ROLLED_BACK, None, "over"))
    output.table([{"a": 1, "b": "[x]"}], ("a", "b"))
    said = text.getvalue()
    for words in (
        "canary 5 %",
        "began [here]",
        "fail at 5 %",
        "too [many] errors",
        "a note",
        "warning: odd",
        "[bad]",
        "[x]",
    ):
        assert words in said


def test_what_programs_see(release: Callable[..., Release], capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, whatever the terminal's width; the last is the result."""
    output = JsonOutput()
    one = release(stage=Stage.CANARY)
    output.happened(Event(NOON, Stage.CANARY, 5, "x" * 300))
    output.judged(one, VERDICT)
    output.waiting(one, "waiting")
    output.warned("odd")
    output.noted("by the way")
    output.failed("bad")
    output.table([{"a": NOON, "b": replace}], ("a",))
    output.result({"outcome": Outcome.PASS}, ["done"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["event", "verdict", "warning", "note", "error", "result", "result"]
    assert (lines[0]["at"], lines[0]["stage"]) == ("2026-11-01T12:00:00+00:00", "canary")
    assert (lines[1]["outcome"], lines[-1]["outcome"]) == ("fail", "pass")
