"""What watches the servers in these tests: a collector of spans, and a real Prometheus."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
import yaml
from held_port import held_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Seen:
    """One span as the collector got it; ids in hexadecimal digits, Unix time."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    began_s: float
    ended_s: float
    attributes: dict[str, object]


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, in threads of this process, and reads its protobuf with the specification's own code."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CollectorHandler)
        self._arrived = threading.Condition()
        self._spans: list[Seen] = []

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        """One export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            for resource in request.resource_spans:
                service = str(_attributes(resource.resource.attributes)["service.name"])
                for scope in resource.scope_spans:
                    self._spans += [_seen(service, span) for span in scope.spans]
            self._arrived.notify_all()

    def trace(self, trace_id: str, spans: int, seconds: float = 15.0) -> list[Seen]:
        """The spans of a trace, once there are so many; all there are when time is up."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._of(trace_id)) >= spans, timeout=seconds)
            return self._of(trace_id)

    def _of(self, trace_id: str) -> list[Seen]:
        return [span for span in self._spans if span.trace_id == trace_id]


class _CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:  # the name that http.server asks for
        """Take an export and thank for it."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _attributes(pairs: Iterator[KeyValue]) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in pairs}


def _seen(service: str, span: Span) -> Seen:
    return Seen(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code == span.status.STATUS_CODE_ERROR,
        span.start_time_unix_nano * 1e-9,
        span.end_time_unix_nano * 1e-9,
        _attributes(span.attributes),
    )


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector of spans."""
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


# --- Prometheus -----------------------------------------------------------------------------------------------------

FASTER = 60
"""By how much every duration in the rules is divided for these tests: a minute becomes a second."""

START_S = 90.0
"""For Prometheus, on a machine that has much else to do."""

_DURATION = re.compile(r"(?<=[\[ ])(\d+)([smhd])(?=[\] )\n]|$)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Target:
    """A process to be scraped, and the labels that it has in a cluster."""

    address: str
    service: str
    component: str


class Prometheus:
    """A real Prometheus, scraping every second.

    Args:
        program: Its path.
        folder: For its configuration and data.
        rules: What `charts/heimdall/files/rules.yaml` holds, made faster.
    """

    def __init__(self, program: str, folder: Path, rules: dict[str, Any], targets: Iterable[Target]) -> None:
        self._port = held_port()
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(_configuration(targets)))
        command = [program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def ready(self) -> bool:
        """Whether it answers queries."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def _get(self, path: str, **parameters: object) -> Any:  # noqa: ANN401 - whatever it answers
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query now; NaN is no sample."""
        found = self._get("query", query=expression)["result"]
        return [one for one in found if one["value"][1] != "NaN"]

    def range(self, expression: str, seconds: float) -> list[dict[str, Any]]:
        """The series of the last so many seconds, a value a second."""
        now_s = time.time()
        parameters = {"start": now_s - seconds, "end": now_s, "step": 1}
        found: list[dict[str, Any]] = self._get("query_range", query=expression, **parameters)["result"]
        return found

    def firing(self) -> set[tuple[str, str, str]]:
        """Service, alert and severity of all that fires now."""
        alerts = [one["labels"] for one in self._get("alerts")["alerts"] if one["state"] == "firing"]
        return {(one["inferenceservice"], one["alertname"], one["severity"]) for one in alerts}


def faster(rules: dict[str, Any], factor: int = FASTER) -> dict[str, Any]:
    """The same rules with every duration divided; the names of recorded series keep the original ones."""

    def divided(text: str) -> str:
        return _DURATION.sub(lambda found: f"{int(found[1]) * _SECONDS[found[2]] * 1000 // factor}ms", text)

    def of(rule: dict[str, Any]) -> dict[str, Any]:
        return rule | {key: divided(f" {rule[key]}").strip() for key in ("expr", "for") if key in rule}

    return {"groups": [group | {"rules": [of(rule) for rule in group["rules"]]} for group in rules["groups"]]}


def _configuration(targets: Iterable[Target]) -> dict[str, Any]:
    scraped = [
        {
            "targets": [one.address],
            "labels": {"namespace": "tests", "inferenceservice": one.service, "component": one.component},
        }
        for one in targets
    ]
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "heimdall", "static_configs": scraped}],
    }


@pytest.fixture(scope="session")
def rules(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The chart's rules, made faster."""
    file = pytestconfig.rootpath / "charts" / "heimdall" / "files" / "rules.yaml"
    return faster(yaml.safe_load(file.read_text()))


@pytest.fixture(scope="session")
def start_prometheus(rules: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts a Prometheus with the chart's rules for some targets."""
    program = shutil.which("prometheus")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no prometheus on the PATH")
    with ExitStack() as stack:

        def start(*targets: Target) -> Prometheus:
            prometheus = Prometheus(program, tmp_path_factory.mktemp("prometheus"), rules, targets)
            stack.callback(prometheus.process.wait, 20)
            stack.callback(prometheus.process.terminate)
            deadline_s = time.monotonic() + START_S
            while not prometheus.ready():
                if prometheus.process.poll() is not None or time.monotonic() > deadline_s:
                    pytest.fail("Prometheus did not start:\n" + prometheus.log.read_text())
                time.sleep(0.1)
            return prometheus

        yield start


@pytest.fixture(scope="session")
def target() -> type[Target]:
    """Makes targets."""
    return Target
