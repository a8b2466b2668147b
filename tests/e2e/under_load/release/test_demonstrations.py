"""Releases under load, with real MLflow, MinIO and Prometheus; every request is accounted for."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cluster, Load, Surroundings

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(3600)]

RATE_HZ = 40.0
SKIP = "--skip-preflight"


def shares(surroundings: Surroundings, sent: Load) -> dict[str, float]:
    """Variant → its share of the answers."""
    names = {digest: name for name, digest in surroundings.service.digests.items()}
    answered = [names[one.digest] for one in sent.sent if one.status == 200]
    return {name: answered.count(name) / len(answered) for name in set(answered)}


def test_a_good_version_goes_to_everything(
    champion: Surroundings, load: Callable[..., Load], record_property: Callable[[str, object], None]
) -> None:
    """Pre-flight with its Job, 5, 25, 50, 100 %, the alias moved, and not one request failed."""
    started_s = time.monotonic()
    job = {
        "HEIMDALL_PROBE_SET": "s3://heimdall-models/probe",
        "HEIMDALL_PROBE_SECRET": "localization-s3",
        "HEIMDALL_PROBE_ENDPOINT": "http://localization-minio:9000",
    }
    with load(rate_hz=RATE_HZ) as sent:
        command = champion.heimdall("release", "better", **job)
        code = command.wait()
        time.sleep(5.0)
    record_property("good", f"{time.monotonic() - started_s:.0f} s; {sent.summary()}; {shares(champion, sent)}")
    assert code == 0, command.lines[-3:]
    assert not sent.failed
    assert command.result["release"]["stage"] == "promoted"
    assert [step["percent"] for step in command.result["release"]["steps"]] == [5, 25, 50]
    assert champion.alias("champion") == champion.versions["better"]
    assert champion.registered_tags("better")["heimdall.rollout.stage"] == "promoted at 100 %"
    assert sent.sent[-1].digest == champion.service.digests["better"]
    told = champion.service.cluster.kubectl("describe", "inferenceservice", "localization")
    assert "Promoted" in told


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        pytest.param("overconfident", "coverage", id="overconfident"),
        pytest.param("no_theta", "log-likelihood", id="no_theta"),
        pytest.param("slow", "latency", id="slow"),
        pytest.param("crashing", "errors|ended", id="crashing"),
        pytest.param("never_ready", "not ready within", id="never_ready"),
    ],
)
def test_a_bad_version_goes_back(
    champion: Surroundings,
    load: Callable[..., Load],
    record_property: Callable[[str, object], None],
    variant: str,
    reason: str,
) -> None:
    """Caught and rolled back with its reason; no request failed, not even of the two that do not answer at all."""
    page, started_s = champion.folder / f"{variant}.html", time.monotonic()
    with load(rate_hz=RATE_HZ) as sent:
        command = champion.heimdall("release", variant.replace("_", "-"), SKIP, "--html", str(page))
        code = command.wait()
        time.sleep(5.0)
    release = command.result["release"]
    figures = f"{time.monotonic() - started_s:.0f} s; {sent.summary()}; {shares(champion, sent)}; {release['reason']}"
    record_property(variant, figures)
    assert code == 1, command.lines[-3:]
    assert release["stage"] == "rolled-back"
    assert any(word in release["reason"] for word in reason.split("|"))
    assert not sent.failed
    assert sent.sent[-1].digest == champion.service.digests["reference"]
    assert champion.alias("champion") == champion.versions["reference"]
    assert release["reason"] in html.unescape(page.read_text(encoding="utf-8"))
    assert release["reason"].startswith(champion.registered_tags(variant)["heimdall.rollout.rejected"][:100])
    again = champion.heimdall("release", variant.replace("_", "-"), SKIP)
    assert again.wait() == 4
    assert "was rejected" in again.of("error")[0]["sentence"]


def test_a_run_that_is_killed_is_taken_up(
    champion: Surroundings,
    load: Callable[..., Load],
    wait_for: Callable[[Callable[[], bool], float], None],
    coarse_policy: str,
    record_property: Callable[[str, object], None],
) -> None:
    """SIGKILL in the middle of a step; the same command waits until the lease runs out, and goes on where it was."""
    policy = champion.folder / "coarse.toml"
    policy.write_text(coarse_policy)
    with load(rate_hz=RATE_HZ) as sent:
        first = champion.heimdall("release", "better", SKIP, "--policy", str(policy))
        wait_for(lambda: '"stage":"canary"' in _record(champion.service.cluster) and _gives(champion, 25), 600)
        first.kill()
        second = champion.heimdall("release", "better", SKIP, "--policy", str(policy))
        code = second.wait()
    record_property("killed", sent.summary())
    assert code == 0, second.lines[-3:]
    assert second.of("event")[0]["sentence"] == "taken up again"
    assert [step["percent"] for step in second.result["release"]["steps"]] == [5, 25, 50]
    assert not sent.failed


def test_without_prometheus_traffic_stays(champion: Surroundings, load: Callable[..., Load]) -> None:
    """Inconclusive until the step's time is up: exit code 3, and the canary keeps its 5 %."""
    policy = champion.folder / "short.toml"
    policy.write_text("minimum_step_s = 5.0\nmaximum_step_s = 30.0\nlook_every_s = 5.0\n")
    away = {"HEIMDALL_PROMETHEUS_URL": "http://127.0.0.1:9"}
    with load(rate_hz=RATE_HZ) as sent:
        command = champion.heimdall("release", "better", SKIP, "--policy", str(policy), **away)
        code = command.wait()
    assert code == 3, command.lines[-3:]
    assert not sent.failed
    assert _gives(champion, 5)
    assert champion.service.spec()["spec"]["predictor"]["canaryTrafficPercent"] == 5
    back = champion.heimdall("rollback")
    assert back.wait() == 0, back.lines[-3:]


def _record(cluster: Cluster) -> str:
    found = cluster.get("ConfigMap", "localization-rollout")
    return str(found["data"]["release"]) if found else ""


def _gives(surroundings: Surroundings, percent: int) -> bool:
    """Whether a revision is given this share."""
    return percent in surroundings.service.traffic().values()
