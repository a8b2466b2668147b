from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from transformer.kubernetes_api import (
    ApiError,
    ApiRefused,
    Bookmark,
    Cluster,
    Expired,
    InferenceServiceApi,
    Seen,
    in_cluster,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import ApiServer

THING = {"metadata": {"name": "loc", "resourceVersion": "7"}, "status": {}}


@pytest.fixture
async def reader(cluster: Cluster) -> AsyncIterator[InferenceServiceApi]:
    """A client of `api`."""
    client = InferenceServiceApi(cluster, "loc", request_timeout_s=10.0, watch_s=2)
    yield client
    await client.close()


async def watched(reader: InferenceServiceApi) -> list[Seen | Bookmark]:
    """What one watch says until its end."""
    async with aclosing(reader.changes("1")) as changes:
        return [change async for change in changes]


async def test_find(api: ApiServer, reader: InferenceServiceApi) -> None:
    """A list finds the object with the version to watch from, or says that there is none."""
    assert (await reader.find()).inference_service is None
    api.objects = [THING]
    seen = await reader.find()
    assert (seen.resource_version, seen.inference_service) == ("1", THING)


async def test_requests_ask_for_one_object(api: ApiServer, cluster: Cluster, reader: InferenceServiceApi) -> None:
    """Every request carries the field selector that a Role with resourceNames demands, and the token of that moment."""
    await reader.find()
    cluster.token_path.write_text("second\n")
    api.hang_up()
    await watched(reader)
    first, second = api.requests
    assert {request.path for request in api.requests} == {
        "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices"
    }
    assert {request.query["fieldSelector"] for request in api.requests} == {"metadata.name=loc"}
    assert (first.headers["Authorization"], second.headers["Authorization"]) == ("Bearer first", "Bearer second")
    assert dict(second.query) == {
        "fieldSelector": "metadata.name=loc",
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "1",
        "timeoutSeconds": "2",
    }


async def test_changes(api: ApiServer, reader: InferenceServiceApi) -> None:
    """Additions, changes, bookmarks and the deletion arrive in order; the watch ends when the server ends it."""
    api.send("ADDED", THING)
    api.send("BOOKMARK", {"metadata": {"resourceVersion": "8"}})
    api.send("DELETED", {"metadata": {"name": "loc", "resourceVersion": "9"}})
    api.hang_up()
    added, bookmark, deleted = await watched(reader)
    assert isinstance(added, Seen)
    assert added.inference_service == THING
    assert bookmark == Bookmark("8")
    assert isinstance(deleted, Seen)
    assert (deleted.resource_version, deleted.inference_service) == ("9", None)


async def test_events_of_any_size_and_cut(api: ApiServer, reader: InferenceServiceApi) -> None:
    """An event may be longer than a read of the socket, and may arrive in pieces."""
    api.send("MODIFIED", THING | {"note": "x" * 300_000})
    api.send_raw(b'{"type":"BOOKMARK","object":{"metadata":{"resource')
    api.send_raw(b'Version":"8"}}}\n')
    api.hang_up()
    modified, bookmark = await watched(reader)
    assert isinstance(modified, Seen)
    assert modified.inference_service is not None
    assert len(modified.inference_service["note"]) == 300_000
    assert bookmark == Bookmark("8")


async def test_expired_by_event_and_by_status(api: ApiServer, reader: InferenceServiceApi) -> None:
    """Both forms of 410 are the demand to list again."""
    api.send("ERROR", {"kind": "Status", "code": 410})
    with pytest.raises(Expired):
        await watched(reader)
    api.refuse_with = 410
    with pytest.raises(Expired):
        await watched(reader)


async def test_refusals(api: ApiServer, reader: InferenceServiceApi) -> None:
    """A refusal keeps its status, in the answer or in the watch."""
    api.send("ERROR", {"kind": "Status", "code": 500})
    with pytest.raises(ApiRefused, match="500"):
        await watched(reader)
    api.refuse_with = 403
    with pytest.raises(ApiRefused) as refused:
        await reader.find()
    assert refused.value.status == 403


@pytest.mark.parametrize("line", [b"<html>\n", b"[]\n", b"x" * 5_000_000], ids=["no JSON", "no object", "no end"])
async def test_nonsense(api: ApiServer, reader: InferenceServiceApi, line: bytes) -> None:
    """What is no event ends the watch as a failure of the API server."""
    api.send_raw(line)
    api.hang_up()
    with pytest.raises(ApiError):
        await watched(reader)


async def test_silence(cluster: Cluster) -> None:
    """A watch that says nothing beyond its time is given up: half-open connections must not freeze the arms."""
    client = InferenceServiceApi(cluster, "loc", request_timeout_s=0.1, watch_s=0)
    async with asyncio.timeout(10.0):
        with pytest.raises(ApiError):
            await watched(client)
    await client.close()


async def test_unreachable(tmp_path: Path, refused_url: str) -> None:
    """Nobody there, and no token, are both the API server's absence."""
    client = InferenceServiceApi(Cluster(refused_url, "radio", tmp_path / "token", tmp_path / "ca.crt"), "loc")
    with pytest.raises(ApiError):
        await client.find()
    (tmp_path / "token").write_text("t")
    with pytest.raises(ApiError):
        await client.find()
    await client.close()


async def test_certificate_authority_is_required(tmp_path: Path, refused_url: str) -> None:
    """Over TLS the cluster's own authority is used; without it nothing is sent."""
    (tmp_path / "token").write_text("t")
    url = refused_url.replace("http:", "https:")
    client = InferenceServiceApi(Cluster(url, "radio", tmp_path / "token", tmp_path / "ca.crt"), "loc")
    with pytest.raises(ApiError, match="FileNotFoundError"):
        await client.find()
    await client.close()


def test_in_cluster(tmp_path: Path) -> None:
    """The configuration is what Kubernetes gives every pod; anything less is no cluster."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert in_cluster(environ, tmp_path) is None
    (tmp_path / "namespace").write_text("radio\n")
    assert in_cluster({}, tmp_path) is None
    expected = Cluster("https://10.96.0.1:6443", "radio", tmp_path / "token", tmp_path / "ca.crt")
    assert in_cluster(environ, tmp_path) == expected
    six = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six is not None
    assert six.url == "https://[fd00::1]:443"
