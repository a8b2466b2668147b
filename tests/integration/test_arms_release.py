"""A canary release through the real transformer: two real predictors, and an API server that tells of their shares."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
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
    from reference.simulate import Captures

SERVERS = Path(__file__).parent / "servers"
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

    def clients(self, bodies: Callable[[int], tuple[bytes, int] | None], version: str = "") -> Answers:
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


def _body(iq: Array, **parameters: Any) -> tuple[bytes, int]:  # noqa: ANN401 - any parameter
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
def release(new_fleet: Any, model_dir: Any, account: Path, tmp_path_factory: Any) -> Iterator[Release]:  # noqa: ANN401
    """A canary with 20 % of the requests, for tests that end as they began."""
    with new_fleet(tmp_path_factory.mktemp("release")) as fleet, _released(fleet, model_dir, account) as release:
        yield release


@pytest.fixture
def own_release(fleet: Any, model_dir: Any, account: Path) -> Iterator[Release]:  # noqa: ANN401
    """The same for a test that does it harm."""
    with _released(fleet, model_dir, account) as release:
        yield release


def test_the_split_is_exact_with_hits(release: Release, drawn: Captures) -> None:
    """Of 10,000 requests, nearly all of them hits, the canary answers 20 ± 1 %, each arm with its own version."""
    bodies = [_body(iq[None], session_id="session-{}") for iq in drawn.iq[:4]]
    total = 10_000

    def body(number: int) -> tuple[bytes, int] | None:
        if number >= total:
            return None
        text, size = bodies[number % len(bodies)]
        session = f"session-{number:06d}".encode()
        return text[:size].replace(b"session-{}", session) + text[size:], size + len(session) - len(b"session-{}")

    told = release.clients(body)
    assert told.failures == []
    assert len(told.said) == total
    assert told.hits > 0.99 * total
    assert abs(told.arms["canary"] / total - 0.20) < 0.01
    assert {(arm, version) for _, arm, version in told.said} == {("stable", "1"), ("canary", "2")}


def test_without_a_session_chance_decides(release: Release, drawn: Captures) -> None:
    """The share is the same without sessions (20 %, within what a fair coin does once in 10,000 times)."""
    body, total = _body(drawn.iq[:1]), 1000
    told = release.clients(lambda number: body if number < total else None)
    assert told.failures == []
    assert 152 <= told.arms["canary"] <= 250


def test_sessions_are_sticky(release: Release, drawn: Captures) -> None:
    """A session meets one version, whatever it asks; hits and misses alike."""
    met = {
        session: {
            release.transformer.infer(drawn.iq[index : index + 1], session_id=session).model_version
            for index in (0, 5, 0)
        }
        for session in map(str, range(20))
    }
    assert {len(versions) for versions in met.values()} == {1}
    assert set.union(*met.values()) == {"1", "2"}


def test_a_version_in_the_url_pins_the_arm(release: Release, drawn: Captures) -> None:
    """Either version can be had whatever the draw, at 0 percent too; a third one is 404."""
    body = _body(drawn.iq[6:7])
    for percent in (20, 0):
        release.show(percent)
        for version in ("1", "2"):
            told = release.clients(lambda number: body if number < 20 else None, f"/versions/{version}")
            assert {said for _, _, said in told.said} == {version}
    release.show(20)
    refused = release.clients(lambda number: body if number < 1 else None, "/versions/3")
    assert refused.failures[0][0] == 404  # type: ignore[index]  # a status and a body
    assert release.api.tokens == {"Bearer a-token"}


def test_both_arms_are_counted(release: Release, drawn: Captures) -> None:
    """Calls are counted per arm and revision, hits are no calls."""
    before = {arm: release.upstream(arm, "200") for arm in ("stable", "canary")}
    plain, cached = _body(drawn.iq[7:8], cache=False), _body(drawn.iq[:1])
    told = release.clients(lambda number: plain if number < 100 else None)
    release.clients(lambda number: cached if number < 100 else None)
    after = {arm: release.upstream(arm, "200") for arm in ("stable", "canary")}
    assert {arm: after[arm] - before[arm] for arm in after} == dict(told.arms)
    assert f'revision="{CANARY[0]}"' in release.metrics()


def test_nothing_of_a_withdrawn_canary_leaves(release: Release, drawn: Captures) -> None:
    """Under load with hits: once the rollback is seen, no request is answered by the canary, be it from the cache."""
    stop = threading.Event()
    bodies = [_body(drawn.iq[:1]), _body(drawn.iq[1:2]), _body(drawn.iq[2:3], cache=False)]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(release.clients, lambda number: None if stop.is_set() else bodies[number % 3])
        try:
            time.sleep(0.5)
            release.show(0)
            withdrawn_s = time.monotonic()
            time.sleep(0.5)
        finally:
            stop.set()
        told = load.result(30)
    release.show(20)
    assert told.failures == []
    late = Counter(arm for began_s, arm, _ in told.said if began_s > withdrawn_s)
    assert late["stable"] > 20
    assert late["canary"] == 0
    assert told.arms["canary"] > 5


def test_a_canary_that_dies_costs_nobody_anything(own_release: Release, drawn: Captures) -> None:
    """SIGKILL of the canary under load: no request fails, the stable arm answers, and the canary is blamed.

    What the canary had answered before is still known, bit for bit.
    """
    ask = own_release.transformer.infer
    session = next(name for name in map(str, range(99)) if ask(drawn.iq[:1], session_id=name).model_version == "2")
    known = ask(drawn.iq[:1], session_id=session)
    stop = threading.Event()
    body = _body(drawn.iq[:1], cache=False)
    own_release.clients(lambda number: body if number < 20 else None)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(own_release.clients, lambda _: None if stop.is_set() else body)
        try:
            time.sleep(0.7)
            own_release.canary.process.send_signal(signal.SIGKILL)
            own_release.canary.process.wait()
            killed_s = time.monotonic()
            time.sleep(1.5)
        finally:
            stop.set()
        told = load.result(30)
    assert told.failures == []
    late = Counter(arm for began_s, arm, _ in told.said if began_s > killed_s)
    assert late["stable"] > 20
    assert late["canary"] == 0
    assert told.arms["canary"] > 5
    assert own_release.upstream("canary", "unreachable") > 0
    assert own_release.upstream("stable", "unreachable") == 0
    hit = ask(drawn.iq[:1], session_id=session)
    assert (hit.parameters["arm"], hit.parameters["cached"]) == ("canary", "[true]")
    for name in ("position", "covariance", "ellipse"):
        assert hit.output(name).array.tobytes() == known.output(name).array.tobytes()
