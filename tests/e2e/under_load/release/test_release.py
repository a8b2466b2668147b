"""The single steps on the cluster, and the chart's Job; whole releases under load are in test_demonstrations."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Surroundings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_canary_status_and_rollback(champion: Surroundings) -> None:
    """A share by hand, seen in status and events, and back to the champion, whose digest serves everything."""
    resolved = champion.heimdall("resolve", "better")
    assert resolved.wait() == 0
    assert resolved.result["model_digest"] == champion.service.digests["better"]
    assert resolved.result["metrics"] == {"rms_km": 20.0}
    canary = champion.heimdall("canary", "better", "--percent", "20", "--skip-preflight")
    assert canary.wait() == 0, canary.lines[-3:]
    assert sorted(champion.service.traffic().values()) == [20, 80]
    other = champion.heimdall("release", "slow", "--skip-preflight")
    assert other.wait() == 4
    status = champion.heimdall("status")
    assert status.wait() == 0
    assert status.result["release"]["stage"] == "canary"
    back = champion.heimdall("rollback", "--reason", "only a test")
    assert back.wait() == 0, back.lines[-3:]
    assert list(champion.service.traffic().values()) == [100]
    spec = champion.service.spec()["spec"]["predictor"]
    assert spec["canaryTrafficPercent"] == 100
    assert champion.service.digests["reference"] in json.dumps(spec)
    told = champion.service.cluster.kubectl("describe", "inferenceservice", "localization")
    assert "only a test" in told
    assert champion.registered_tags("better")["heimdall.rollout.rejected"] == "only a test"


@pytest.mark.proof
def test_the_chart_s_job_releases(champion: Surroundings, pytestconfig: pytest.Config) -> None:
    """In the cluster, with no more permissions than the chart gives, the pre-flight Job included."""
    cluster, folder = champion.service.cluster, pytestconfig.rootpath / "charts"
    values = {
        "run": "once",
        "reference": "better",
        "mlflowUri": "http://e2e-mlflow:5000",
        "prometheusUrl": "http://e2e-prometheus:9090",
        "probeSet": "s3://heimdall-models/probe",
        "policy": {"steps_percent": [50], "minimum_step_s": 5.0, "maximum_step_s": 20.0, "look_every_s": 5.0},
    }
    command = ["helm", "template", "localization", str(folder / "heimdall"), "--namespace", "heimdall"]
    command += ["--kube-version", "1.34", "--values", str(folder / "values" / "quickstart.yaml"), "--values", "-"]
    command += ["--show-only", "templates/rollout/rbac.yaml", "--show-only", "templates/rollout/job.yaml"]
    done = subprocess.run(
        command, input=json.dumps({"rollout": values}), capture_output=True, text=True, timeout=60, check=True
    )
    manifest = champion.folder / "job.yaml"
    manifest.write_text(done.stdout)
    cluster.kubectl("apply", "--filename", str(manifest))
    try:
        cluster.wait_until(lambda: _over(champion), 600.0, "the Job is over")
        log = cluster.kubectl("logs", "job/localization-rollout-1")
        result = json.loads(log.strip().splitlines()[-1])
        # Nobody calls the service, so the step is never decided: everything up to there was done by the Job.
        assert (result["outcome"], result["release"]["stage"]) == ("inconclusive", "canary"), log
        assert "pre-flight passed" in log
        assert "RMS" in log or "the probe set was answered" in log
        assert sorted(champion.service.traffic().values()) == [50, 50]
    finally:
        cluster.kubectl("delete", "--filename", str(manifest), "--ignore-not-found")
    back = champion.heimdall("rollback")
    assert back.wait() == 0, back.lines[-3:]


def _over(champion: Surroundings) -> bool:
    status = champion.service.cluster.get("Job", "localization-rollout-1")["status"]
    return bool(status.get("succeeded") or status.get("failed"))
