"""Whole commands, on a cluster with KServe's rules and evidence that a test chooses."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from rollout import cli, commands, report_commands, steps, workplace
from rollout.artifact import Artifact
from rollout.errors import ConflictError
from rollout.evidence import EvidenceUnavailable, Places, Probed
from rollout.kubernetes_api import KubernetesApi
from rollout.measurements import Disagreement, Look
from rollout.registry import Registered
from rollout.release import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FakeCluster

    from rollout.measurements import ArmCounts, ProbeResults
    from rollout.record import Record
    from rollout.release import ModelVersion, Release

NEXT = "s3://models/next"
PLACE = ("--namespace", "radio", "--service", "loc")
POLICY = {"steps_percent": [10, 50], "minimum_step_s": 0.0, "look_every_s": 1.0, "alpha": 0.2, "probe_captures": 500}


class Evidence:
    """Prometheus and probe in one; `failing` is the canary's share of errors."""

    def __init__(self, arm: Callable[..., ArmCounts], results: ProbeResults) -> None:
        self.arm, self.results = arm, results
        self.failing, self.looks, self.away = 0.0, 0, False

    def look(self, release: Release, elapsed_s: float) -> Look:  # noqa: ARG002 - the interface
        """Two thousand calls of the canary more at each look."""
        if self.away:
            raise EvidenceUnavailable("Prometheus does not answer")
        self.looks += 1
        calls = 2_000 * self.looks
        return Look(elapsed_s, self.arm(5 * calls, 0), self.arm(calls, round(calls * self.failing)))

    def live(self, release: Release) -> None:
        """Nothing."""

    def counts(self, revisions: tuple[str, str], since_s: float, until_s: float) -> dict[str, ArmCounts]:
        """For the A/B report."""
        assert until_s - since_s == pytest.approx(600.0)
        return {revisions[0]: self.arm(1_000, 0), revisions[1]: self.arm(100, 3)}

    def distributions(self, *_: Any) -> dict[str, Any]:  # noqa: ANN401 - the interface
        """Nothing."""
        return {}

    def probe(self, release: Release) -> Probed:  # noqa: ARG002 - the interface
        """The same answers every time."""
        none = self.results.stable.error_m
        return Probed(self.results, Disagreement(1, 2.0, 0), Places(none, none, none, none[:, 0] > 0))


class Files:
    """Every model's files are these."""

    def __init__(self, found: ModelVersion) -> None:
        self._found = found

    def inspect(self, uri: str, _: str) -> Artifact:
        """At any address."""
        found = self._found
        return Artifact(uri, found.model_digest, "", found.contract_digest, found.signature, 1)


class Run:
    """Runs `heimdall` in this process; `options` are those of every release."""

    def __init__(self, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
        self._capsys, self.options = capsys, options
        self.lines: list[dict[str, Any]] = []

    def __call__(self, *words: str) -> int:
        """The exit code; what was said is in `lines`."""
        code = cli.main([*words, *PLACE, "--output", "json"])
        self.lines = [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]
        return code

    def release(self, *words: str) -> int:
        """A release without its Job."""
        return self(*words, "--skip-preflight", *self.options)


@pytest.fixture
def evidence(arm: Callable[..., ArmCounts], probe: Callable[..., ProbeResults]) -> Evidence:
    """Of a good version."""
    return Evidence(arm, probe(500))


@pytest.fixture
def heimdall(
    cluster: FakeCluster,
    evidence: Evidence,
    challenger: ModelVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command line, its surroundings replaced; the registry is none unless a test sets one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(KubernetesApi, "connect", lambda _: cluster)
    monkeypatch.setattr(commands, "resolved", lambda *_, **__: challenger)
    for module in (workplace, report_commands):
        monkeypatch.setattr(module, "PrometheusEvidence", lambda *_: nullcontext(evidence))
    monkeypatch.setattr(workplace, "ServiceProbe", lambda *_: evidence)
    monkeypatch.setattr(workplace, "Artifacts", lambda _: Files(challenger))
    monkeypatch.setattr(steps, "_POLL_S", 0.0)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(POLICY | {"probe_resamples": 999, "maximum_step_s": 3.0}))
    options = ("--prometheus", "http://p", "--probe-set", "s3://p", "--policy", str(policy))
    return Run(capsys, options)


def test_release_promotes_and_writes_its_report(heimdall: Run, cluster: FakeCluster, tmp_path: Path) -> None:
    """Exit code 0, JSON lines, a page, a history, and nothing left to do."""
    page = tmp_path / "report.html"
    assert heimdall.release("release", "--html", str(page)) == 0
    assert [line["type"] for line in heimdall.lines][-2:] == ["note", "result"]
    assert heimdall.lines[-1]["release"]["stage"] == "promoted"
    assert "m version 2" in page.read_text()
    assert cluster.seen[-1] == {NEXT: 100}
    assert heimdall("history") == 0
    assert [one["stage"] for one in heimdall.lines[-1]["items"]] == ["promoted"]
    assert heimdall.release("release") == 0
    assert heimdall.lines[-1]["sentence"] == "m version 2 serves already"
    assert (heimdall.lines[-1]["outcome"], heimdall.lines[-1]["exit_code"]) == ("pass", 0)


def _does_not_draw(_: object) -> str:
    raise ValueError("a plot without points")


@pytest.mark.parametrize("render", [None, _does_not_draw])
@pytest.mark.parametrize("command", ["release", "judge"])
def test_a_page_that_cannot_be_written_is_a_warning(
    heimdall: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, render: Callable[..., str] | None
) -> None:
    """Whatever is wrong with it, the outcome, its exit code and the result stay what they are."""
    if render is not None:
        monkeypatch.setattr("rollout.report.render", render)
    assert heimdall.release("canary") == 0
    options = heimdall.options if command == "release" else heimdall.options[:4]
    assert heimdall(command, *options, "--html", str(tmp_path / "no" / "r.html")) == 0
    warning, result = heimdall.lines[-2:]
    assert (warning["type"], result["outcome"]) == ("warning", "pass")
    assert ("cannot be written to" if render is None else "a plot without points") in warning["sentence"]


def test_release_rolls_back(heimdall: Run, evidence: Evidence, cluster: FakeCluster) -> None:
    """Exit code 1; the next attempt is refused with 4 before anything is touched, unless it says --again."""
    evidence.failing = 0.2
    assert heimdall.release("release") == 1
    assert heimdall.lines[-1]["release"]["reason"].startswith("errors")
    before = len(cluster.log)
    assert heimdall.release("release") == 4
    assert "--again" in heimdall.lines[-1]["sentence"]
    assert {path.rpartition("/")[2] for _, path in cluster.log[before:]} == {"heimdall-rollout-loc"}
    assert heimdall.release("release", "--if-new") == 0
    assert "was rejected, m version 2: errors" in heimdall.lines[-1]["sentence"]
    evidence.failing = 0.0
    assert heimdall.release("release", "--again") == 0


def test_single_steps(heimdall: Run, cluster: FakeCluster, tmp_path: Path) -> None:
    """canary, judge, another share, status, report, ab, promote, and back again by hand."""
    assert heimdall.release("canary", "--percent", "20") == 0
    assert cluster.seen[-1][NEXT] == 20
    assert heimdall("judge", *heimdall.options[:4], "--html", str(tmp_path / "j.html")) == 0
    assert heimdall.lines[-1]["outcome"] == "pass"
    assert heimdall.release("canary", "--percent", "40") == 0
    assert cluster.seen[-1][NEXT] == 40
    assert heimdall("status") == 0
    assert heimdall.lines[-1]["release"]["stage"] == "canary"
    assert heimdall("report", "--html", str(tmp_path / "r.html"), "--prometheus", "http://p") == 0
    assert heimdall("ab", "--minutes", "10", "--prometheus", "http://p") == 0
    assert [arm["percent"] for arm in heimdall.lines[-1]["arms"]] == [60, 40]
    assert heimdall("promote") == 0
    assert cluster.seen[-1] == {NEXT: 100}
    assert heimdall("report", "--html", str(tmp_path / "r.html"), "--prometheus", "http://p") == 0
    assert heimdall("rollback", "--reason", "I do not like it") == 0
    assert heimdall.lines[-1]["release"]["reason"] == "I do not like it"
    assert NEXT not in cluster.seen[-1]
    assert heimdall("promote") == 4


def test_a_release_keeps_the_policy_that_it_began_with(heimdall: Run, tmp_path: Path) -> None:
    """Whoever gives another one later is told that it does not count; the same one is nothing to talk about."""
    assert heimdall.release("canary") == 0
    assert heimdall.release("canary") == 0
    assert "warning" not in {line["type"] for line in heimdall.lines}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(POLICY | {"probe_resamples": 999, "minimum_calls": 7}))
    options = *heimdall.options[:-1], str(other)
    assert heimdall("canary", "--percent", "20", "--skip-preflight", *options) == 0
    assert [line["sentence"] for line in heimdall.lines if line["type"] == "warning"] == [
        "it goes on with the policy that it began with, which is not the one that is given now"
    ]


def test_a_halted_release_is_rolled_back_by_hand(heimdall: Run, evidence: Evidence, cluster: FakeCluster) -> None:
    """Prometheus away: exit code 3 when the step's time is up, traffic as it was, and a person decides."""
    evidence.away = True
    policy = ("--policy", heimdall.options[-1])
    assert heimdall.release("release", *policy, "--prometheus", "http://away") == 3
    assert cluster.seen[-1][NEXT] == 10
    assert heimdall("report", "--html", "/tmp/never", "--prometheus", "http://p") == 0  # noqa: S108 - overwritten below
    assert heimdall.lines[0]["type"] == "warning"
    assert heimdall("rollback") == 0
    assert NEXT not in cluster.seen[-1]


def test_another_version_has_to_wait(
    heimdall: Run, monkeypatch: pytest.MonkeyPatch, good: ModelVersion, challenger: ModelVersion
) -> None:
    """One release at a time; the same version takes its own up again."""
    assert heimdall.release("canary") == 0
    monkeypatch.setattr(commands, "resolved", lambda *_, **__: good)
    assert heimdall.release("release") == 4
    assert "is not over" in heimdall.lines[-1]["sentence"]
    monkeypatch.setattr(commands, "resolved", lambda *_, **__: challenger)
    assert heimdall.release("release") == 0
    assert heimdall.lines[0]["sentence"] == "taken up again"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["judge", "--prometheus", "http://p", "--probe-set", "s"], 4, "no release of radio/loc is running"),
        (["promote"], 4, "no release of radio/loc is running"),
        (["rollback"], 4, "no release of radio/loc is running"),
        (["release"], 2, "--prometheus is needed"),
        (["release", "--prometheus", "http://p"], 2, "--probe-set is needed"),
        (["report"], 2, "--html"),
        (["report", "--html", "x"], 4, "no release yet"),
        (["ab"], 2, "--prometheus"),
        (["ab", "--prometheus", "http://p"], 4, "only one arm"),
    ],
)
def test_what_cannot_be_done(heimdall: Run, words: list[str], code: int, message: str) -> None:
    """Each says what is missing."""
    assert heimdall(*words) == code
    assert message in heimdall.lines[-1]["sentence"]


def test_before_its_preflight_a_release_is_nothing_to_move(
    heimdall: Run, record: Record, release: Callable[..., Release], tmp_path: Path
) -> None:
    """Interrupted in pre-flight: nothing to promote, roll back, or judge; and no figures for a report."""
    record.save(release(), release().began_at)
    assert heimdall("rollback") == 4
    assert "has changed nothing yet" in heimdall.lines[-1]["sentence"]
    assert heimdall("judge", "--prometheus", "http://p", "--probe-set", "s") == 4
    assert "no live canary" in heimdall.lines[-1]["sentence"]
    assert heimdall("report", "--html", str(tmp_path / "r.html"), "--prometheus", "http://p") == 0
    assert heimdall("report", "--html", str(tmp_path / "no" / "r.html")) == 5
    assert "cannot be written" in heimdall.lines[-1]["sentence"]


def test_somebody_else_is_at_it(heimdall: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4, with who."""

    def taken(*_: Any) -> None:  # noqa: ANN401 - the interface
        raise ConflictError("exists")

    monkeypatch.setattr(cluster, "create", taken)
    assert heimdall.release("release") == 4
    assert "another run took the lease" in heimdall.lines[-1]["sentence"]


class OneVersion:
    """A registry that knows one version, rejected or not."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags

    def resolve(self, _: object) -> Registered:
        """Always the same."""
        return Registered("m", "2", "s3://models/next", "run", self._tags, (("rms_m", 3.5),))


def test_resolve_shows_everything(heimdall: Run, challenger: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, files, digests and metrics; and a rejected one is refused by its tag, wherever the service is."""
    monkeypatch.setattr(commands, "resolved", workplace.resolved)

    monkeypatch.setattr(workplace.Registry, "connect", lambda: OneVersion({}))
    assert heimdall("resolve", "next") == 0
    assert heimdall.lines[-1]["metrics"] == {"rms_m": 3.5}
    assert heimdall.lines[-1]["model_digest"] == challenger.model_digest
    monkeypatch.setattr(workplace.Registry, "connect", lambda: OneVersion({"heimdall.rollout.rejected": "slow"}))
    assert heimdall("resolve", "next") == 0
    assert heimdall.release("release") == 4
    assert "was rejected, slow" in heimdall.lines[-1]["sentence"]
    assert heimdall.release("release", "--if-new") == 0
    assert "was rejected, slow" in heimdall.lines[-1]["sentence"]


def test_a_release_is_ended_whatever_the_registry_says_of_its_version(
    heimdall: Run, record: Record, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the registry's tag and the record's last line, the same command takes it up again."""
    monkeypatch.setattr(commands, "resolved", workplace.resolved)
    monkeypatch.setattr(workplace.Registry, "connect", lambda: OneVersion({"heimdall.rollout.rejected": "slow"}))
    record.save(release(stage=Stage.ROLLING_BACK, reason="slow"), release().began_at)
    assert heimdall.release("release", "--if-new") == 1
    assert heimdall.lines[0]["sentence"] == "taken up again"
    assert heimdall.lines[-1]["release"]["stage"] == "rolled-back"


def test_for_people(heimdall: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The same in words."""
    assert heimdall.release("canary") == 0
    assert cli.main(["status", *PLACE]) == 0
    said = capsys.readouterr().out
    assert "loc-predictor-00002 10 %" in said
    assert "m version 2: canary" in said
