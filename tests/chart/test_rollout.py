"""What the chart makes for releases, against what `heimdall` really reads and does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from rollout import exit_codes
from rollout.arguments import parse
from rollout.policy import policy_from_json
from rollout.record import REJECTED
from rollout.report_destination import BucketObject

if TYPE_CHECKING:
    from conftest import Chart

RUN: dict[str, Any] = {
    "run": "once",
    "mlflowUri": "http://mlflow:5000",
    "prometheusUrl": "http://prometheus:9090",
    "probeSet": "s3://heimdall-models/probe",
    "policy": {"steps_percent": [10, 50], "alpha": 0.02},
}
POLICIES = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    """The objects of these kinds."""
    return [one for one in objects if one["kind"] in kinds]


def test_without_asking_there_is_nothing(chart: Chart) -> None:
    """Policies belong to the whole cluster, and not everybody may make them."""
    objects = chart.render()
    assert not of_kind(objects, *POLICIES, "Job", "CronJob")
    assert "canaryTrafficPercent" not in chart.one("InferenceService")["spec"]["predictor"]


def test_the_policy_watches_one_service(chart: Chart) -> None:
    """By namespace and name, and it reads the note that `heimdall` writes."""
    objects = chart.render(rollout={"admission": {"enabled": True}})
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    constraints = policy["spec"]["matchConstraints"]
    assert constraints["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ns"}
    (rule,) = constraints["resourceRules"]
    assert (rule["resourceNames"], rule["operations"]) == (["loc"], ["UPDATE"])
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"] == "ns-loc-rollout"
    assert f"'{REJECTED}'" in policy["spec"]["variables"][-1]["expression"]


@pytest.mark.parametrize(("given", "percent"), [(None, 100), (0, 0), (10, 10)])
def test_under_the_policies_a_percentage_is_always_there(chart: Chart, given: int | None, percent: int) -> None:
    """Or the next upgrade that changes the predictor would be refused."""
    service = chart.one("InferenceService", rollout={"admission": {"enabled": True}}, canary={"percent": given})
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == percent


def test_the_job_gives_heimdall_what_it_reads(chart: Chart) -> None:
    """Every variable is one of its options, and the policy is one that it accepts."""
    storage = {"s3": {"endpoint": "minio:9000", "useHttps": False, "existingSecret": "s"}}
    objects = chart.render(rollout=RUN, storage=storage, model={"name": "radio_model"})
    (job,) = of_kind(objects, "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environ = {one["name"]: one.get("value", "from a Secret") for one in container["env"]}
    (policy,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"] == "loc-rollout-policy"]
    assert policy_from_json(policy["data"]["policy.json"]).steps_percent == (10, 50)
    given = {name: text for name, text in environ.items() if name != "HEIMDALL_POLICY"}
    found = parse(container["args"], given)
    assert (found.command, found.reference, found.json) == ("release", "challenger", True)
    assert (found.namespace, found.service, found.probe_secret) == ("ns", "loc", "s")
    assert (found.model_name, found.if_new) == ("radio_model", False)
    assert (found.prometheus, found.probe_set) == ("http://prometheus:9090", "s3://heimdall-models/probe")
    assert (found.probe_endpoint, environ["AWS_ENDPOINT_URL"]) == ("http://minio:9000", "http://minio:9000")
    assert found.image == container["image"] == "docker.io/heimdall/rollout:0.2.0"
    assert environ["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("run", ["once", "scheduled"])
@pytest.mark.parametrize("reports", ["", "s3://reports/", "s3://reports/heimdall/radio/"])
def test_a_release_leaves_its_report_where_the_chart_says(chart: Chart, run: str, reports: str) -> None:
    """Below a prefix, so that every release has a page of its own; without the value there is none."""
    (found,) = of_kind(chart.render(rollout=RUN | {"run": run, "reports": reports}), "Job", "CronJob")
    job = found["spec"]["jobTemplate"]["spec"] if run == "scheduled" else found["spec"]
    (container,) = job["template"]["spec"]["containers"]
    html = parse(container["args"], {}).html
    assert html == (BucketObject("reports", reports.removeprefix("s3://reports/")) if reports else None)


@pytest.mark.parametrize(
    "reports", ["s3://reports", "s3:///reports/", "s3://reports/page.html", "/reports/", "s3://a b/"]
)
def test_a_place_that_would_keep_one_report_only_is_refused(chart: Chart, reports: str) -> None:
    """One object would be written over by each release, and a file would go with its pod."""
    assert "reports" in chart.refusal(rollout=RUN | {"reports": reports})


@pytest.mark.parametrize("run", ["once", "scheduled"])
def test_what_was_interrupted_is_taken_up(chart: Chart, run: str) -> None:
    """By the Job's next pod, however often a node is drained; a verdict, a refusal and a wrong option end the Job."""
    (found,) = of_kind(chart.render(rollout=RUN | {"run": run}), "Job", "CronJob")
    job = found["spec"]["jobTemplate"]["spec"] if run == "scheduled" else found["spec"]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (3, "Never")
    codes, disrupted = job["podFailurePolicy"]["rules"]
    assert codes["action"] == "FailJob"
    decided = {exit_codes.NOT_GOOD_ENOUGH, exit_codes.USAGE, exit_codes.INCONCLUSIVE, exit_codes.REFUSED}
    assert set(codes["onExitCodes"]["values"]) == decided
    assert not decided & {exit_codes.DONE, exit_codes.FAILURE, exit_codes.INTERRUPTED}
    (container,) = job["template"]["spec"]["containers"]
    assert codes["onExitCodes"]["containerName"] == container["name"]
    assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}


def test_a_cronjob_never_runs_twice_at_once(chart: Chart) -> None:
    """The lease would refuse the second anyway."""
    cronjob = chart.one("CronJob", rollout=RUN | {"run": "scheduled", "schedule": "5 4 * * *"})
    assert (cronjob["spec"]["schedule"], cronjob["spec"]["concurrencyPolicy"]) == ("5 4 * * *", "Forbid")


def test_a_cronjob_is_no_failure_when_nothing_is_to_be_done(chart: Chart) -> None:
    """A challenger that was rejected stays the challenger until somebody moves the alias."""
    cronjob = chart.one("CronJob", rollout=RUN | {"run": "scheduled"})
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert parse(container["args"], {}).if_new


@pytest.mark.parametrize(("name", "value"), [("mode", "collocated"), ("protocol", "grpc")])
@pytest.mark.parametrize("run", ["once", "scheduled"])
def test_a_release_that_could_not_be_judged_is_refused(chart: Chart, name: str, value: str, run: str) -> None:
    """When it is installed, not after hours without a verdict."""
    assert f"rollout.run needs {name} " in chart.refusal(rollout=RUN | {"run": run}, **{name: value})


def test_the_role_names_its_objects(chart: Chart) -> None:
    """Only what has no name yet, and pods, whose names are Knative's, are not limited to one."""
    (role,) = [
        one for one in chart.render(rollout=RUN) if one["kind"] == "Role" and one["metadata"]["name"] == "loc-rollout"
    ]
    for rule in role["rules"]:
        free = not rule.get("resourceNames")
        assert free == (rule["verbs"] == ["create"] or "pods" in rule["resources"] or "pods/log" in rule["resources"])
        assert "*" not in json.dumps(rule)
        assert "secrets" not in rule["resources"]


@pytest.mark.parametrize("missing", ["mlflowUri", "prometheusUrl", "probeSet"])
def test_a_release_without_its_surroundings_is_refused(chart: Chart, missing: str) -> None:
    """When it is installed, not when it runs."""
    assert f"rollout.run needs rollout.{missing}" in chart.refusal(rollout=RUN | {missing: ""})
