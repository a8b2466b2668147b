"""What a release needs around the service: MLflow and Prometheus on the cluster, and the probe set in MinIO."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import boto3
import pytest

from reference.probe_set import open_folder, write_probe_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Cluster, Service

NAMESPACE, MODEL, BUCKET = "heimdall", "localization_model", "heimdall-models"
VARIANTS = ("reference", "better", "overconfident", "no_theta", "slow", "crashing", "never_ready")
PORTS = {"mlflow": (5000, 31500), "prometheus": (9090, 31909), "minio": (9000, 31900)}
"""Port of the container, and of the node."""

SECURITY = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SCRAPING = """
global: {scrape_interval: 5s}
scrape_configs:
  - job_name: transformer
    dns_sd_configs: [{names: [e2e-transformers.heimdall.svc.cluster.local], type: A, port: 8080, refresh_interval: 5s}]
"""
POLICY = """
minimum_step_s = 30.0
ready_within_s = 60.0
look_every_s = 10.0
"""
"""The default's margins and certainties; only the waiting is shorter."""

_START_S, _CALL_S = 240.0, 20.0


@dataclass
class Surroundings:
    """Where everything is, as this machine reaches it.

    Attributes:
        service: The service that is released to.
        node: Address of the cluster's node.
        probe_set: Folder with the same captures as in the bucket.
        folder: For files of a test.
        versions: Name of a variant → its number in the registry.
        commands: Every `heimdall` that was started.
    """

    service: Service
    node: str
    probe_set: Path
    folder: Path
    versions: Mapping[str, str]
    commands: list[Command] = field(default_factory=list)

    def url(self, name: str) -> str:
        """Of MLflow, Prometheus or MinIO."""
        return f"http://{self.node}:{PORTS[name][1]}"

    def environ(self) -> dict[str, str]:
        """What `heimdall` is told by its environment."""
        policy = self.folder / "policy.toml"
        policy.write_text(POLICY)
        return os.environ | {
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "HEIMDALL_PROMETHEUS_URL": self.url("prometheus"),
            "HEIMDALL_PROBE_SET": str(self.probe_set),
            "HEIMDALL_SERVICE_URL": self.service.ingress,
            "HEIMDALL_POLICY": str(policy),
            "AWS_ENDPOINT_URL": self.url("minio"),
            "AWS_ACCESS_KEY_ID": "heimdall",
            "AWS_SECRET_ACCESS_KEY": "heimdall-quickstart",
            "AWS_DEFAULT_REGION": "us-east-1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def heimdall(self, *words: str, **environ: str) -> Command:
        """Start a command."""
        command = Command([sys.executable, "-m", "rollout", *words, "--output", "json"], self.environ() | environ)
        self.commands.append(command)
        return command

    def registered_tags(self, variant: str) -> dict[str, str]:
        """What the registry says of a version."""
        query = f"name={MODEL}&version={self.versions[variant]}"
        with urlopen(f"{self.url('mlflow')}/api/2.0/mlflow/model-versions/get?{query}", timeout=_CALL_S) as answer:
            tags = json.load(answer)["model_version"].get("tags", [])
        return {one["key"]: one["value"] for one in tags}

    def alias(self, name: str) -> str:
        """The version that an alias stands for."""
        query = f"name={MODEL}&alias={name}"
        with urlopen(f"{self.url('mlflow')}/api/2.0/mlflow/registered-models/alias?{query}", timeout=_CALL_S) as answer:
            return str(json.load(answer)["model_version"]["version"])


@dataclass
class Command:
    """A running `heimdall`, which speaks JSON lines."""

    words: list[str]
    environ: Mapping[str, str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            self.words, env=dict(self.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait(self, timeout_s: float = 2_700.0) -> int:
        """Its exit code; what it said is in `lines` then."""
        out, err = self.process.communicate(timeout=timeout_s)
        self.lines += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert "Traceback" not in err, err
        return self.process.returncode

    def kill(self) -> None:
        """As when its node is lost: nothing is given back."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind: event, verdict, warning, error, result."""
        return [line for line in self.lines if line["type"] == kind]

    @property
    def result(self) -> dict[str, Any]:
        """The last line."""
        assert self.lines, "it said nothing"
        return self.lines[-1]


@pytest.fixture(scope="session")
def surroundings(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """MLflow with a version of each variant, Prometheus that reads the transformer, and 2,500 captures in MinIO."""
    service.cluster.load_image("rollout", service.manifest.parents[1])
    cluster, node = service.cluster, urlsplit(service.ingress).hostname or ""
    folder = tmp_path_factory.mktemp("release")
    cluster.apply(*_mlflow(), *_prometheus(), _exposed("minio"))
    captures = service.manifest.parents[1] / "build" / "reference" / "probe-set"
    if not (captures / "manifest.json").exists():
        write_probe_set(open_folder(str(captures)), 2_500, 7)
    found = Surroundings(service, node, captures, folder, {name: str(i) for i, name in enumerate(VARIANTS, 1)})
    for name, path in (("mlflow", "/health"), ("prometheus", "/-/ready"), ("minio", "/minio/health/ready")):
        cluster.wait_until(partial(_answers, found.url(name) + path), _START_S, f"{name} answers")
    with pytest.MonkeyPatch.context() as patch:
        for name, text in found.environ().items():
            patch.setenv(name, text)
        _register(found)
        _upload(found)
    yield found
    for kind in ("deployment", "service", "configmap"):
        cluster.kubectl("delete", kind, "--selector=e2e=release", "--ignore-not-found", "--wait=false")


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _register(found: Surroundings) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds, which only these tests need

    client = MlflowClient()
    client.create_registered_model(MODEL)
    experiment = client.create_experiment("training")
    for name in VARIANTS:
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "rms_km", 20.0)
        client.create_model_version(MODEL, f"s3://{BUCKET}/{name}", run_id=run.info.run_id)
        client.set_registered_model_alias(MODEL, name.replace("_", "-"), found.versions[name])


def _upload(found: Surroundings) -> None:
    client = boto3.client("s3")
    for path in found.probe_set.iterdir():
        client.upload_file(str(path), BUCKET, f"probe/{path.name}")


def _metadata(name: str) -> dict[str, Any]:
    return {"name": f"e2e-{name}", "namespace": NAMESPACE, "labels": {"e2e": "release"}}


def _exposed(name: str) -> dict[str, Any]:
    """A port of the node for it."""
    selector = {"app.kubernetes.io/component": "minio"} if name == "minio" else {"app": f"e2e-{name}"}
    port, node_port = PORTS[name]
    ports = [{"port": port, "targetPort": port, "nodePort": node_port}]
    spec = {"type": "NodePort", "selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": spec}


def _deployment(name: str, container: dict[str, Any], volumes: list[dict[str, Any]], **pod: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    labels = {"app": f"e2e-{name}", "e2e": "release"}
    container |= {"name": name, "imagePullPolicy": "IfNotPresent", "securityContext": SECURITY}
    container["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    spec = {"containers": [container], "volumes": volumes, "securityContext": {"fsGroup": 1000}} | pod
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name),
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def _mlflow() -> list[dict[str, Any]]:
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1", "--allowed-hosts", "*"]
    command += ["--backend-store-uri", "sqlite:////data/mlflow.db", "--artifacts-destination", "/data/artifacts"]
    env = {"HOME": "/data", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    container = {
        "image": "ghcr.io/mlflow/mlflow:v3.17.2",
        "command": command,
        "workingDir": "/data",
        "env": [{"name": name, "value": text} for name, text in env.items()],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return [_deployment("mlflow", container, [{"name": "data", "emptyDir": {}}]), _exposed("mlflow")]


def _prometheus() -> list[dict[str, Any]]:
    name = "e2e-prometheus"
    container = {
        "image": "docker.io/prom/prometheus:v2.42.0",
        "args": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"],
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [{"name": "config", "configMap": {"name": name}}, {"name": "data", "emptyDir": {}}]
    pods = {"clusterIP": "None", "selector": {"component": "transformer"}, "ports": [{"port": 8080}]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": _metadata("transformers"), "spec": pods},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata("prometheus"),
            "data": {"prometheus.yml": SCRAPING},
        },
        _deployment("prometheus", container, volumes),
        _exposed("prometheus"),
    ]


@pytest.fixture
def champion(service: Service, surroundings: Surroundings) -> Iterator[Surroundings]:
    """The reference model serves everything and is the champion; nothing is remembered of an earlier release."""
    from mlflow import MlflowClient  # noqa: PLC0415 - as above

    _forget(service.cluster)
    service.settle()
    client = MlflowClient(surroundings.url("mlflow"))
    client.set_registered_model_alias(MODEL, "champion", surroundings.versions["reference"])
    for number in surroundings.versions.values():
        for tag in client.get_model_version(MODEL, number).tags:
            client.delete_model_version_tag(MODEL, number, tag)
    yield surroundings
    for command in surroundings.commands:  # a failed test's goes on, into the next one
        if command.process.poll() is None:
            command.kill()
    _forget(service.cluster)
    service.settle()


def _forget(cluster: Cluster) -> None:
    cluster.kubectl(
        "delete", "configmap/localization-rollout", "lease/heimdall-rollout-localization", "--ignore-not-found"
    )
    note = '{"status":{"annotations":{"heimdall.io/rejected-digests":null}}}'
    target = ("inferenceservice", "localization", "--subresource=status", "--type=merge", f"--patch={note}")
    cluster.kubectl("patch", *target)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], float], None]:
    """Waits until something is true."""

    def wait(condition: Callable[[], bool], seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends_s
            time.sleep(0.5)

    return wait


@pytest.fixture
def coarse_policy() -> str:
    """A policy in TOML that is sure of less, and so sooner: for what is not about the verdict."""
    return (
        "minimum_step_s = 30.0\nminimum_calls = 100\nunacceptable_error_increase = 0.05\n"
        "latency_quantile = 0.9\nunacceptable_latency_ratio = 3.0\nlook_every_s = 10.0\n"
    )


@pytest.fixture
def rendered(helm_program: str, pytestconfig: pytest.Config) -> Callable[..., str]:
    """Renders some templates of the chart with the quickstart's values and further ones."""
    charts = pytestconfig.rootpath / "charts"
    command = [helm_program, "template", "localization", str(charts / "heimdall"), "--namespace", NAMESPACE]
    command += ["--kube-version", "1.34", "--values", str(charts / "values" / "quickstart.yaml"), "--values", "-"]

    def render(values: dict[str, Any], *templates: str) -> str:
        shown = [f"--show-only=templates/{name}" for name in templates]
        run = partial(subprocess.run, capture_output=True, text=True, timeout=60, check=True)
        return str(run([*command, *shown], input=json.dumps(values)).stdout)

    return render
