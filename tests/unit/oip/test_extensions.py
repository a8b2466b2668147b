from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from oip.errors import NotFound
from oip.extensions import Extensions
from oip.repository import READY, UNAVAILABLE, RepositoryEntry
from oip.statistics import BatchStatistics, ModelStatistics, Total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STATISTICS = ModelStatistics(
    name="echo",
    version="1",
    last_inference_ms=5,
    inference_count=6,
    execution_count=4,
    success=Total(3, 30),
    fail=Total(1, 10),
    queue=Total(3, 6),
    batches=(
        BatchStatistics(1, Total(2, 1), Total(2, 20), Total(2, 2)),
        BatchStatistics(2, Total(2, 3), Total(2, 40), Total(2, 4)),
    ),
)


class Repository:
    """Knows two versions and keeps what was asked."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def index(self) -> Sequence[RepositoryEntry]:
        """One good, one bad."""
        return [RepositoryEntry("echo", "1", READY), RepositoryEntry("echo", "2", UNAVAILABLE, "broken")]

    async def load(self, model_name: str, parameters: Mapping[str, object]) -> None:
        """Kept."""
        self.calls.append((model_name, dict(parameters)))

    async def unload(self, model_name: str) -> None:
        """Kept; one name is unknown."""
        if model_name == "none":
            raise NotFound("there is no model 'none'")
        self.calls.append(model_name)


@pytest.fixture
def repository() -> Repository:
    """A repository."""
    return Repository()


@pytest.fixture
def offered(make_service: Callable[..., Any], repository: Repository) -> Any:  # noqa: ANN401 - the fixture's class
    """An application that offers both extensions."""
    return make_service(
        extensions=Extensions(lambda name, version: [STATISTICS] if name or not version else [], repository)
    )


@pytest.mark.parametrize("path", ["/v2/models/echo/stats", "/v2/models/echo/versions/1/stats", "/v2/models/stats"])
async def test_statistics(offered: Any, path: str) -> None:  # noqa: ANN401 - the fixture's class
    """The members of Triton's extension_statistics.md; the parts of a run are summed over the batch sizes."""
    answer = await offered.call("GET", path)
    (told,) = json.loads(answer.body)["model_stats"]
    assert {key: told[key] for key in ("name", "version", "last_inference", "inference_count", "execution_count")} == {
        "name": "echo",
        "version": "1",
        "last_inference": 5,
        "inference_count": 6,
        "execution_count": 4,
    }
    totals = {key: (one["count"], one["ns"]) for key, one in told["inference_stats"].items()}
    assert totals == {
        "success": (3, 30),
        "fail": (1, 10),
        "queue": (3, 6),
        "compute_input": (4, 4),
        "compute_infer": (4, 60),
        "compute_output": (4, 6),
        "cache_hit": (0, 0),
        "cache_miss": (0, 0),
    }
    assert told["batch_stats"][1]["batch_size"] == 2
    assert told["batch_stats"][1]["compute_infer"] == {"count": 2, "ns": 40}


@pytest.mark.parametrize(("body", "versions"), [(b"", ["1", "2"]), (b"{}", ["1", "2"]), (b'{"ready":true}', ["1"])])
async def test_index(offered: Any, body: bytes, versions: list[str]) -> None:  # noqa: ANN401 - the fixture's class
    """All versions, or those that are ready; the reason only where there is one."""
    entries = json.loads((await offered.call("POST", "/v2/repository/index", body)).body)
    assert [one["version"] for one in entries] == versions
    assert entries[0] == {"name": "echo", "version": "1", "state": "READY"}
    assert [one["reason"] for one in entries[1:]] == ["broken"] * (len(versions) - 1)


async def test_load_and_unload(offered: Any, repository: Repository) -> None:  # noqa: ANN401 - the fixture's class
    """Name and parameters arrive; the answer is an empty object."""
    answer = await offered.call("POST", "/v2/repository/models/a%2Fb/load", b'{"parameters":{"version":"3"}}')
    assert (answer.status, json.loads(answer.body)) == (200, {})
    assert (await offered.call("POST", "/v2/repository/models/echo/unload")).status == 200
    assert repository.calls == [("a/b", {"version": "3"}), "echo"]
    assert (await offered.call("POST", "/v2/repository/models/none/unload")).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/index", b'{"ready":1}', 400),
        ("/v2/repository/models/echo/load", b"[", 400),
        ("/v2/repository/models/echo/load", b'{"parameters":[]}', 400),
        ("/v2/repository/models/echo/load", b" " * 70_000, 413),
    ],
)
async def test_wrong_repository_requests(offered: Any, path: str, body: bytes, status: int) -> None:  # noqa: ANN401 - the fixture's class
    """The client's mistakes are told, and nothing is loaded."""
    answer = await offered.call("POST", path, body)
    assert (answer.status, list(json.loads(answer.body))) == (status, ["error"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/echo/stats"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/echo/load"),
        ("POST", "/v2/repository/models/echo/unload"),
    ],
)
async def test_not_offered(service: Any, method: str, path: str) -> None:  # noqa: ANN401 - the fixture's class
    """Without a handler the answer is 501, and the application behind is not asked: the SDK would unload."""
    answer = await service.call(method, path)
    assert (answer.status, list(json.loads(answer.body))) == (501, ["error"])
    assert service.foreign == []


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/v2/repository/index", b"POST"), ("POST", "/v2/models/stats", b"GET, HEAD")]
)
async def test_methods(offered: Any, method: str, path: str, allow: bytes) -> None:  # noqa: ANN401 - the fixture's class
    """405 names the method."""
    answer = await offered.call(method, path)
    assert (answer.status, answer.headers[b"allow"]) == (405, allow)
