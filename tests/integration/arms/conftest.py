"""What takes part in a canary release: the real transformer, two real predictors, and a small API server."""

from __future__ import annotations

import itertools
import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, InferResponse, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oip.messages import Array

    Body = tuple[bytes, int]

SERVERS = Path(__file__).parents[1] / "servers"
JSON_SIZE = "inference-header-content-length"
STABLE, CANARY = ("loc-predictor-00001", "1"), ("loc-predictor-00002", "2")
CLIENTS = 4


def _status(percent: int | None) -> dict[str, Any]:
    """The InferenceService with a canary at this share, or after its end (None), as KServe writes it."""
    stable = {"revisionName": STABLE[0], "latestRevision": False, "tag": "prev", "percent": 100 - (percent or 0)}
    canary = {"revisionName": CANARY[0], "latestRevision": True, "tag": "latest", "percent": percent}
    predictor = {
        "latestReadyRevision": CANARY[0],
        "traffic": [stable] if percent is None else [canary, stable],
    }
    return {
        "metadata": {"name": "loc", "namespace": "radio", "resourceVersion": "1"},
        "status": {
            "components": {"predictor": predictor},
            "conditions": [{"type": "PredictorRouteReady", "status": "True"}],
        },
    }


class ApiServer(ThreadingHTTPServer):
    """Lists and watches one InferenceService over TLS, in threads of this process."""

    daemon_threads = True

    def __init__(self, certificate: Path, percent: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _ApiHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "ca.crt", certificate / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.changed = threading.Condition()
        self.version = 1
        self.percent = percent
        self.tokens: set[str] = set()

    def show(self, percent: int | None) -> None:
        """From now on the status says this share."""
        with self.changed:
            self.percent = percent
            self.version += 1
            self.changed.notify_all()

    def change_after(self, version: int, wait_s: float) -> dict[str, Any] | None:
        """The object, once it is newer than this version; None if it does not become so in time."""
        with self.changed:
            self.changed.wait_for(lambda: self.version > version, timeout=wait_s)
            return self.document() if self.version > version else None

    def document(self) -> dict[str, Any]:
        """The object at its present version."""
        thing = _status(self.percent)
        thing["metadata"]["resourceVersion"] = str(self.version)
        return thing


class _ApiHandler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:  # the name that http.server asks for
        """A list, or a watch that ends as asked or with its client."""
        query = parse_qs(urlsplit(self.path).query)
        self.server.tokens.add(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        if "watch" not in query:
            version = {"resourceVersion": str(self.server.version)}
            self.wfile.write(json.dumps({"metadata": version, "items": [self.server.document()]}).encode())
            return
        seen, end_s = int(query["resourceVersion"][0]), time.monotonic() + int(query["timeoutSeconds"][0])
        while time.monotonic() < end_s:
            event = self.server.change_after(seen, wait_s=1.0)
            if event is not None:
                seen = int(event["metadata"]["resourceVersion"])
                self.wfile.write(json.dumps({"type": "MODIFIED", "object": event}).encode() + b"\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Answers:
    """What clients were told, by all of them."""

    failures: list[object] = field(default_factory=list)
    said: list[tuple[float, str, str]] = field(default_factory=list)
    hits: int = 0

    def count(self, response: InferResponse, began_s: float) -> None:
        """Take note of one answer."""
        self.said.append((began_s, str(response.parameters["arm"]), str(response.model_version)))
        self.hits += response.parameters["cached"] == "[true]"

    @property
    def arms(self) -> Counter[str]:
        """How many answers each arm gave."""
        return Counter(arm for _, arm, _ in self.said)


@dataclass
class Release:
    """Everything that takes part in one release."""

    api: ApiServer
    stable: Any
    canary: Any
    transformer: Any

    def show(self, percent: int | None) -> None:
        """Change the status, and wait until the transformer has seen it."""
        self.api.show(percent)
        expected = "" if percent is None else f'arm="canary",revision="{CANARY[0]}"}} {float(percent)}'
        self.transformer.wait_until(lambda: self._sees(expected), 10.0)

    def _sees(self, expected: str) -> bool:
        shown = [line for line in self.metrics().splitlines() if line.startswith("transformer_arm_percent{")]
        return any(expected in line for line in shown) if expected else len(shown) == 1

    def metrics(self) -> str:
        """What Prometheus would read."""
        return str(self.transformer.call("GET", "/metrics").body.decode())

    def upstream(self, arm: str, code: str) -> float:
        """How many calls of an arm ended so."""
        name = rf'transformer_upstream_requests_total{{arm="{arm}",code="{code}",revision="[^"]*"}} (\S+)'
        return sum(map(float, re.findall(name, self.metrics())))

    def clients(self, bodies: Callable[[int], Body | None], version: str = "") -> Answers:
        """Requests of several clients, until a client is given no more of them; each on a connection of its own."""
        path = f"/v2/models/localization{version}/infer"
        told, numbers = Answers(), itertools.count()

        def ask() -> None:
            connection = HTTPConnection("127.0.0.1", self.transformer.http_port, timeout=20.0)
            while (sent := bodies(next(numbers))) is not None:
                body, size = sent
                began_s = time.monotonic()
                connection.request("POST", path, body, {JSON_SIZE: str(size)})
                response = connection.getresponse()
                answer, json_size = response.read(), response.headers.get(JSON_SIZE)
                if response.status == 200:
                    told.count(decode_response(answer, int(json_size or 0)), began_s)
                else:
                    told.failures.append((response.status, answer))
            connection.close()

        with ThreadPoolExecutor(CLIENTS) as pool:
            for client in [pool.submit(ask) for _ in range(CLIENTS)]:
                client.result()
        return told


@pytest.fixture(scope="session")
def body_of() -> Callable[..., Body]:
    """Makes the body of a binary V2 request, and the size of its JSON."""
    return _body


def _body(iq: Array, **parameters: Any) -> Body:  # noqa: ANN401 - any parameter
    request = InferRequest((Tensor("iq", iq),), parameters=parameters, binary_output=True)
    encoded = encode_request(request, binary=True)
    assert encoded.json_size is not None
    return encoded.body, encoded.json_size


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account with the certificate of the API server."""
    folder = tmp_path_factory.mktemp("account")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-keyout", "key.pem", "-out", "ca.crt", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    (folder / "token").write_text("a-token")
    (folder / "namespace").write_text("radio")
    return folder


@contextmanager
def _released(fleet: Any, model_dir: Any, account: Path) -> Iterator[Release]:  # noqa: ANN401 - of conftest.py
    stable = fleet.predictor(model_dir("reference"), "--model_version", STABLE[1])
    canary = fleet.predictor(model_dir("better"), "--model_version", CANARY[1])
    hosts = {"loc": stable.http_port, "prev-loc": stable.http_port, "latest-loc": canary.http_port}
    with ApiServer(account, 20) as api, pytest.MonkeyPatch.context() as environ:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        environ.setenv("PYTHONPATH", str(SERVERS), prepend=os.pathsep)
        environ.setenv("CLUSTER_HOSTS", json.dumps(hosts))
        environ.setenv("CLUSTER_ACCOUNT", str(account))
        environ.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        environ.setenv("KUBERNETES_SERVICE_PORT", str(api.server_port))
        environ.setenv("HEIMDALL_INFERENCE_SERVICE", "loc")
        transformer = fleet._start("transformer_in_cluster", ("--predictor_host", "loc"), 0)  # noqa: SLF001 - it differs from the fleet's transformers by its module alone
        transformer.wait_until(transformer.ready)
        try:
            yield Release(api, stable, canary, transformer)
        finally:
            api.shutdown()


@pytest.fixture(scope="module")
def release(new_fleet: Any, model_dir: Any, account: Path, tmp_path_factory: Any) -> Iterator[Release]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """A canary with 20 % of the requests, for tests that end as they began."""
    with new_fleet(tmp_path_factory.mktemp("release")) as fleet, _released(fleet, model_dir, account) as release:
        yield release


@pytest.fixture
def own_release(fleet: Any, model_dir: Any, account: Path) -> Iterator[Release]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The same for a test that does it harm."""
    with _released(fleet, model_dir, account) as release:
        yield release
