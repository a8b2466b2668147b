"""The single steps on the cluster, and the chart's Job; whole releases under load are in test_demonstrations."""

from __future__ import annotations

import json
import time
import tomllib
from typing import TYPE_CHECKING, Any

import boto3
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Surroundings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

JOB = "localization-rollout-1"
RATE_HZ = 40.0


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
def test_the_chart_s_job_releases(
    champion: Surroundings,
    load: Callable[..., Load],
    job: Callable[[str], str],
    record_property: Callable[[str, object], None],
) -> None:
    """In the cluster, with no more permissions than the chart gives: one version up to 100 %, the next one rejected."""
    with load(rate_hz=RATE_HZ) as sent:
        log = job("better")
        time.sleep(5.0)
    record_property("the chart's Job", f"{sent.summary()}; {_result(log)}")
    assert (_result(log)["outcome"], _result(log)["release"]["stage"]) == ("pass", "promoted"), log
    assert "pre-flight passed" in log
    assert not sent.failed
    assert sent.sent[-1].digest == champion.service.digests["better"]
    assert champion.alias("champion") == champion.versions["better"]
    assert "Promoted" in champion.service.cluster.kubectl("describe", "inferenceservice", "localization")
    log = job("overconfident")
    record_property("the chart's Job, overconfident", _result(log))
    rejected = champion.service.spec()["status"]["annotations"]["heimdall.io/rejected-digests"]
    assert champion.service.digests["overconfident"] in rejected, log
    assert champion.registered_tags("overconfident")["heimdall.rollout.rejected"]
    assert list(champion.service.traffic().values()) == [100]
    access = {"aws_access_key_id": "heimdall", "aws_secret_access_key": "heimdall-quickstart"}
    client = boto3.client("s3", endpoint_url=champion.url("minio"), region_name="us-east-1", **access)
    pages = client.list_objects_v2(Bucket="heimdall-models", Prefix="reports/")["Contents"]
    assert f"reports/localization-{champion.versions['better']}-" in pages[0]["Key"]


def _result(log: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(log.strip().splitlines()[-1])
    return result


@pytest.fixture
def job(champion: Surroundings, rendered: Callable[..., str], coarse_policy: str) -> Iterator[Callable[[str], str]]:
    """Runs the Job that the chart makes for this alias to its end, with the chart's own Role; what it logged."""
    cluster = champion.service.cluster
    manifest = champion.folder / "job.yaml"

    def run(reference: str) -> str:
        values = {
            "run": "once",
            "reference": reference,
            "mlflowUri": "http://e2e-mlflow:5000",
            "prometheusUrl": "http://e2e-prometheus:9090",
            "probeSet": "s3://heimdall-models/probe",
            "reports": "s3://heimdall-models/reports/",
            "policy": tomllib.loads(coarse_policy) | {"steps_percent": [50]},
        }
        manifest.write_text(rendered({"rollout": values}, "rollout/rbac.yaml", "rollout/job.yaml"))
        cluster.kubectl("delete", f"job/{JOB}", "--ignore-not-found", "--wait")
        cluster.kubectl("apply", "--filename", str(manifest))
        cluster.wait_until(lambda: _over(champion), 900.0, "the Job is over")
        return cluster.kubectl("logs", f"job/{JOB}")

    yield run
    cluster.kubectl("delete", "--filename", str(manifest), "--ignore-not-found")


def _over(champion: Surroundings) -> bool:
    status = champion.service.cluster.get("Job", JOB)["status"]
    return bool(status.get("succeeded") or status.get("failed"))
