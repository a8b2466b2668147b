"""CPU time of pods that come, go and start again during a run, as a kubelet tells it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from watch import ContainerCpu, Pods, Repeated, cpu_spent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = (f"localization-transformer-0000{one}-deployment-7d9c-abcde" for one in (1, 2))
LATE_MS = 4102444800000  # always later than the question, so that nobody waits for the kubelet

KUBECTL = """#!/bin/sh
case "$*" in
  "get nodes -o name") echo node/one; echo node/two ;;
  "get --raw /api/v1/nodes/one/proxy/metrics/resource") cat "$0.one" ;;
  "get --raw /api/v1/nodes/two/proxy/metrics/resource") echo >> "$0.looks" ;;
  *) exit 64 ;;
esac
"""


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Makes the kubelet of a first node say so many seconds of each container; returns how often it was asked."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    looks = tmp_path / "kubectl.looks"

    def told(**cpu_s: float) -> int:
        names = {"old": (OLD, "queue-proxy"), "new": (NEW, "queue-proxy"), "redis": ("heimdall-redis-5d9-x", "redis")}
        lines = ["# TYPE container_cpu_usage_seconds_total counter", _line("elsewhere-6b-c", "redis", 9e9, "other")]
        lines += [_line(*names[name], seconds, "h") for name, seconds in cpu_s.items()]
        written = tmp_path / "kubectl.next"
        written.write_text("\n".join(lines) + "\n")
        written.rename(tmp_path / "kubectl.one")
        return len(looks.read_bytes()) if looks.exists() else 0

    return told


def _line(pod: str, container: str, cpu_s: float, namespace: str) -> str:
    labels = f'container="{container}",namespace="{namespace}",pod="{pod}"'
    return f"container_cpu_usage_seconds_total{{{labels}}} {cpu_s} {LATE_MS}"


def _wait_for_a_look(say: Callable[..., int], **cpu_s: float) -> None:
    """Say this until somebody who asked after it was said has heard it."""
    heard = say(**cpu_s) + 2  # the first may have been asking already
    end_s = time.monotonic() + 20
    while say(**cpu_s) < heard:
        assert time.monotonic() < end_s, "nobody looks"
        time.sleep(0.02)


def test_a_line_of_a_kubelet() -> None:
    """Containers of a Knative pod are told apart by component; other pods lose the random end of their names."""
    line = _line(OLD, "queue-proxy", 1.5, "h").replace(str(LATE_MS), "1795444784555")
    assert ContainerCpu.parse(line) == ContainerCpu(OLD, "queue-proxy", 1795444784.555, 1.5)
    assert ContainerCpu.parse(line).part == "transformer queue-proxy"
    assert ContainerCpu.parse(line.replace("transformer-00001-deployment", "redis")).part == "localization-redis"


def test_a_pod_that_ends_counts_with_what_was_last_said_of_it(say: Callable[..., int]) -> None:
    """It had taken 100 s before the run and was last seen at 107 s; the one in its place begins at zero."""
    say(old=100.0, redis=5.0)
    with cpu_spent(Pods("h", 0.02)) as spent_s:
        _wait_for_a_look(say, old=107.0, redis=5.5)
        say(new=2.0, redis=6.0)
    assert spent_s == pytest.approx({"transformer queue-proxy": 9.0, "heimdall-redis": 1.0})


def test_a_pod_that_nobody_saw_again_took_nothing(say: Callable[..., int]) -> None:
    """Its time before the run is never subtracted from another's, which made the sum negative."""
    say(old=100.0)
    with cpu_spent(Pods("h", 3600.0)) as spent_s:
        say(new=2.0)
    assert spent_s == {"transformer queue-proxy": 2.0}


def test_a_container_that_starts_again_counts_from_zero(say: Callable[..., int]) -> None:
    """What it took before its end is added to what it takes afterwards; later runs are not charged with it."""
    pods = Pods("h", 0.02)
    say(old=100.0)
    with cpu_spent(pods) as spent_s:
        _wait_for_a_look(say, old=103.0)
        say(old=1.0)
    assert spent_s == {"transformer queue-proxy": 4.0}
    with cpu_spent(pods) as spent_s:
        say(old=1.5)
    assert spent_s == {"transformer queue-proxy": 0.5}


def test_a_look_that_fails_is_told_and_made_up_for(
    say: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A kubelet that is silent for a moment ends no run and costs no CPU time that it tells of later."""
    say(old=100.0)
    with cpu_spent(Pods("h", 0.02)) as spent_s:
        (tmp_path / "kubectl.one").unlink()
        end_s = time.monotonic() + 20
        told = ""
        while "no CPU times this time" not in told and time.monotonic() < end_s:
            time.sleep(0.02)
            told += capfd.readouterr().err
        say(old=101.0)
    assert "no CPU times this time" in told
    assert spent_s == {"transformer queue-proxy": 1.0}


def test_without_a_meter_nothing_is_spent() -> None:
    """Where nothing here knows the service's CPU time, the report says so instead of zero."""
    with cpu_spent(None) as spent_s:
        pass
    assert spent_s == {}


def test_calls_repeat_until_the_end() -> None:
    """At once, then at the period, and never after the block."""
    moments: list[float] = []
    with Repeated(lambda: moments.append(time.monotonic()), 0.05):
        time.sleep(0.5)
    calls = len(moments)
    assert 5 <= calls <= 12
    time.sleep(0.12)
    assert len(moments) == calls
