from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rollout.errors import ConflictError
from rollout.release import ReleaseError, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock, FakeCluster

    from rollout.record import Record
    from rollout.release import ModelVersion, Release

ISVC = "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices/loc"
PATH = "/api/v1/namespaces/radio/configmaps/loc-rollout"


def test_it_belongs_to_the_service(
    cluster: FakeCluster, record: Record, release: Callable[..., Release], clock: Clock
) -> None:
    """Deleting the service deletes its memory; the service itself is not touched, which would make a revision."""
    assert record.release() is None
    assert record.history() == ()
    record.save(release(), clock())
    assert record.release() == release()
    assert cluster.objects[PATH]["metadata"]["ownerReferences"][0]["name"] == "loc"
    record.save(release(step=1), clock())
    assert [path for _, path in cluster.log] == [PATH, PATH]


def test_the_history_is_bounded_and_holds_each_release_once(
    record: Record, release: Callable[..., Release], clock: Clock
) -> None:
    """The newest stay."""
    for number in range(60):
        record.save(release(release_id=f"r{number}", stage=Stage.PROMOTED), clock())
    record.save(release(release_id="r59", stage=Stage.ROLLED_BACK, reason="bad"), clock())
    history = record.history()
    assert [one.release_id for one in history] == [f"r{number}" for number in range(10, 60)]
    assert (history[-1].stage, history[-1].reason, history[-1].challenger) == ("rolled-back", "bad", "m version 2")


def test_rejected_digests_are_lines_that_begin_with_them(
    cluster: FakeCluster, record: Record, good: ModelVersion, challenger: ModelVersion
) -> None:
    """That is how the admission policy reads them; forgiving one leaves the others."""
    record.reject(good, "slow\nand more")
    record.reject(challenger, "wrong")
    record.reject(good, "slow again")
    note = cluster.objects[ISVC]["status"]["annotations"]["heimdall.io/rejected-digests"]
    assert note.splitlines() == [
        f"{challenger.model_digest} m version 2: wrong",
        f"{good.model_digest} m version 1: slow again",
    ]
    record.forgive(challenger.model_digest)
    record.forgive("sha256:unknown")
    assert record.rejected() == {good.model_digest: "m version 1: slow again"}


def test_a_record_that_appears_meanwhile_is_changed(
    cluster: FakeCluster,
    record: Record,
    release: Callable[..., Release],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else may make the object between looking and making."""
    create = cluster.create

    def late(path: str, body: Any) -> Any:  # noqa: ANN401 - the interface
        create(path, body | {"data": {"history": "[]"}})
        raise ConflictError("exists")

    monkeypatch.setattr(cluster, "create", late)
    record.save(release(), clock())
    assert set(cluster.objects[PATH]["data"]) == {"history", "release"}


def test_a_damaged_record_is_told(cluster: FakeCluster, record: Record) -> None:
    """And not taken for no release."""
    cluster.objects[PATH] = {"metadata": {}, "data": {"release": "{"}}
    with pytest.raises(ReleaseError):
        record.release()
