"""Against a small HTTP server, because what counts is what goes over the wire; the real API server is in tests/e2e."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.client import ApiClient, Configuration

from rollout.errors import ClusterError, ConflictError, DeniedError
from rollout.kubernetes_api import KubernetesApi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Server:
    """Answers each request with the next of its answers."""

    url: str
    answers: list[tuple[int, str]] = field(default_factory=list)
    requests: list[tuple[str, str, str, Any]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    """On a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.loads(body) if body else None
            found.requests.append((self.command, self.path, self.headers.get("Content-Type", ""), content))
            status, text = found.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 - the base class's
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found = Server(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield found
        http.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server) -> KubernetesApi:
    """Talks with it."""
    configuration = Configuration()
    configuration.host = server.url
    return KubernetesApi(ApiClient(configuration))


def test_each_change_goes_by_its_own_kind_of_request(server: Server, api: KubernetesApi) -> None:
    """Methods, content types and the field manager are what the API server tells them apart by."""
    server.answers += [(200, "{}")] * 5
    api.apply("/a", {"x": 1})
    api.merge("/a", {"x": None})
    api.create("/c", {"x": 1})
    api.replace("/a", {"x": 1})
    api.delete("/a")
    manager = "fieldManager=heimdall-rollout"
    assert [one[:3] for one in server.requests] == [
        ("PATCH", f"/a?{manager}&force=true", "application/apply-patch+yaml"),
        ("PATCH", f"/a?{manager}", "application/merge-patch+json"),
        ("POST", f"/c?{manager}", "application/json"),
        ("PUT", f"/a?{manager}", "application/json"),
        ("DELETE", "/a?propagationPolicy=Background", "application/json"),
    ]
    assert [one[3] for one in server.requests] == [{"x": 1}, {"x": None}, {"x": 1}, {"x": 1}, None]


def test_reading(server: Server, api: KubernetesApi) -> None:
    """An object, none, a list, an empty one, and a log."""
    server.answers += [(200, '{"kind":"A"}'), (404, "{}"), (200, '{"items":[{"a":1}]}'), (404, ""), (200, "said\n")]
    assert api.get("/a") == {"kind": "A"}
    assert api.get("/b") is None
    assert api.items("/c", labelSelector="x=y") == [{"a": 1}]
    assert api.items("/d") == []
    assert api.text("/e/log", container="probe") == "said\n"
    assert server.requests[2][1] == "/c?labelSelector=x%3Dy"
    server.answers += [(404, "{}")]
    api.delete("/gone")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ClusterError),
        (401, DeniedError),
        (403, DeniedError),
        (409, ConflictError),
        (422, DeniedError),
        (500, ClusterError),
    ],
)
def test_failures_have_kinds_and_say_why(
    server: Server, api: KubernetesApi, status: int, kind: type[ClusterError]
) -> None:
    """The API server's own message is what a person needs; text that is none is shown as it is."""
    server.answers += [(status, '{"message":"because"}'), (status, "not JSON"), (status, "no log")]
    with pytest.raises(kind, match=rf"PATCH /a answers {status}: because") as caught:
        api.apply("/a", {})
    assert type(caught.value) is kind
    with pytest.raises(kind, match="not JSON"):
        api.get("/a")
    with pytest.raises(kind, match="no log"):
        api.text("/a")


def test_a_server_that_is_away() -> None:
    """Is told as such, and within seconds."""
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:9"
    configuration.retries = False
    with pytest.raises(ClusterError, match="does not answer GET /a"):
        KubernetesApi(ApiClient(configuration)).get("/a")


def test_where_the_cluster_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KUBECONFIG first, then the pod's own account; without either the error says so."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert KubernetesApi.connect() is not None
    with pytest.raises(ClusterError, match="no cluster is configured"):
        KubernetesApi.connect("unknown")
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(ClusterError, match="no cluster is configured"):
        KubernetesApi.connect()
