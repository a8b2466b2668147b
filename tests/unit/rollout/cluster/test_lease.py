from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import pytest

from rollout import lease as module
from rollout.errors import ClusterError, ConflictError, HeldError, RefusedError
from rollout.lease import DURATION_S, RENEW_EVERY_S, Lease

if TYPE_CHECKING:
    from conftest import FakeCluster

ISVC = "/apis/serving.kserve.io/v1beta1/namespaces/radio/inferenceservices/loc"
PATH = "/apis/coordination.k8s.io/v1/namespaces/radio/leases/heimdall-rollout-loc"


def lease(cluster: FakeCluster, holder: str | None = "me", **given: Any) -> Lease:  # noqa: ANN401 - any argument
    """The lease of the service `loc`, for which nobody waits in earnest."""
    return Lease(cluster, "radio", "loc", holder, **{"sleep": lambda _: None} | given)  # type: ignore[arg-type]  # the part of it that is used


def renewed(cluster: FakeCluster) -> None:
    """What the holder's own thread does."""
    spec = cluster.objects[PATH]["spec"]
    cluster.objects[PATH]["spec"] = spec | {"renewTime": spec["renewTime"] + "+"}


def test_two_at_once_are_refused(cluster: FakeCluster) -> None:
    """The second is told who has it and since when, once it is seen to be renewed; afterwards it gets it."""
    told: list[str] = []
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) == RENEW_EVERY_S:
            renewed(cluster)

    with lease(cluster).held() as held:
        held.check()
        assert "me holds the lease heimdall-rollout-loc since 2" in held.holder()
        second = lease(cluster, "other", waiting=told.append, sleep=sleep)
        with pytest.raises(HeldError, match="me holds the lease"), second.held():
            pytest.fail("there are two")
        assert sum(slept) == RENEW_EVERY_S
        assert [one.partition(":")[0][:8] for one in told] == ["me holds"]
    assert held.holder() == ""
    with lease(cluster, "other").held():
        assert cluster.objects[PATH]["spec"]["holderIdentity"] == "other"
        assert cluster.objects[PATH]["spec"]["leaseTransitions"] == 1


def test_it_belongs_to_the_service(cluster: FakeCluster) -> None:
    """Deleted with it, also one that was made before leases had an owner; without a service there is none."""
    with lease(cluster).held():
        (owner,) = cluster.objects[PATH]["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("InferenceService", "loc", "u")
    del cluster.objects[PATH]["metadata"]["ownerReferences"]
    with lease(cluster).held():
        assert cluster.objects[PATH]["metadata"]["ownerReferences"] == [owner]
    del cluster.objects[ISVC], cluster.objects[PATH]
    with pytest.raises(RefusedError, match="there is no InferenceService"), lease(cluster).held():
        pytest.fail("nothing to hold")
    assert PATH not in cluster.objects


def test_a_holder_has_a_name(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the image, whose user has none."""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    with lease(cluster, None).held() as held:
        assert "(process " in held.holder()


@pytest.mark.parametrize("skew_s", [-3_600, 0, 3_600])
def test_one_that_was_not_renewed_can_be_taken(cluster: FakeCluster, skew_s: float) -> None:
    """As after a killed run: for its duration nobody gets it, then anybody, whatever the clocks of both say."""
    slept: list[float] = []
    with lease(cluster, "killed").held():
        left = dict(cluster.objects[PATH])
    there = datetime.now(UTC) + timedelta(seconds=skew_s)
    cluster.objects[PATH] = left | {"spec": left["spec"] | {"renewTime": there.isoformat()}}
    with lease(cluster, sleep=slept.append).held() as held:
        assert held.holder().startswith("me holds")
        assert sum(slept) == DURATION_S
    cluster.objects[PATH]["spec"] = {"holderIdentity": "somebody"}
    assert held.holder() == ""


@pytest.mark.parametrize("skew_s", [-3_600, 0, 3_600])
def test_a_live_lease_is_not_stolen_by_another_clock(cluster: FakeCluster, skew_s: float) -> None:
    """Its holder's clock is an hour away: what counts is that it goes on renewing."""
    with lease(cluster, "there").held():
        there = datetime.now(UTC) + timedelta(seconds=skew_s)
        cluster.objects[PATH]["spec"]["renewTime"] = there.isoformat()
        with pytest.raises(HeldError, match="there holds"), lease(cluster, sleep=lambda _: renewed(cluster)).held():
            pytest.fail("stolen")


@pytest.mark.parametrize("deleted", [True, False])
def test_one_that_is_given_back_meanwhile_is_taken_at_once(cluster: FakeCluster, *, deleted: bool) -> None:
    """Or one whose service was installed anew."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if deleted:
            del cluster.objects[PATH]
        else:
            cluster.objects[PATH]["spec"]["holderIdentity"] = ""

    with lease(cluster, "killed").held():
        left = dict(cluster.objects[PATH])
    cluster.objects[PATH] = left
    with lease(cluster, sleep=sleep).held() as held:
        held.check()
    assert len(slept) == 1


def test_it_is_renewed_while_it_is_held(cluster: FakeCluster) -> None:
    """Which keeps others away however long the run takes."""
    with lease(cluster).held(renew_every_s=0.01):
        first = cluster.objects[PATH]["spec"]["renewTime"]
        _wait(lambda: cluster.objects[PATH]["spec"]["renewTime"] > first)


@pytest.mark.parametrize("gone", [True, False])
def test_a_lost_lease_is_noticed(cluster: FakeCluster, *, gone: bool) -> None:
    """Before the next change, whether it was deleted or another run has taken it; the other's is left alone."""
    with lease(cluster).held(renew_every_s=0.01) as held:
        if gone:
            del cluster.objects[PATH]
        else:
            cluster.objects[PATH] = cluster.objects[PATH] | {
                "spec": cluster.objects[PATH]["spec"] | {"holderIdentity": "thief"}
            }
        with pytest.raises(HeldError, match="was lost: it is gone" if gone else "thief holds"):
            _wait(held.check)  # type: ignore[func-returns-value]  # raises in the end
    assert gone or cluster.objects[PATH]["spec"]["holderIdentity"] == "thief"


def test_a_cluster_that_is_away_for_a_moment_costs_nothing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewal is tried again; only when the duration is over the lease counts as lost."""
    with lease(cluster).held(renew_every_s=0.01) as held:

        def away(*_: Any) -> None:  # noqa: ANN401 - any call
            raise ClusterError("away")

        with monkeypatch.context() as patch:
            patch.setattr(cluster, "get", away)
            time.sleep(0.05)
            held.check()
        renewed = cluster.objects[PATH]["spec"]["renewTime"]
        _wait(lambda: cluster.objects[PATH]["spec"]["renewTime"] > renewed)
        monkeypatch.setattr("rollout.lease.DURATION_S", -1)
        with pytest.raises(HeldError, match="could not be renewed in time"):
            held.check()


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_a_wall_clock_that_jumps_changes_nothing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Neither is a lease that is held lost by it, nor is one that is lost held any longer."""
    jumped_s, passed_s = [0.0], [0.0]

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # of the class that it stands for
            return datetime.now(tz) + timedelta(seconds=jumped_s[0])

    steady_s = module._steady_s  # noqa: SLF001 - the clock that the test moves
    monkeypatch.setattr(module, "datetime", Wall)
    monkeypatch.setattr(module, "_steady_s", lambda: steady_s() + passed_s[0])
    with lease(cluster).held() as held:
        jumped_s[0] = jump_s
        held.check()
        jumped_s[0] = -jump_s
        held.check()
        passed_s[0] = DURATION_S + 1.0
        with pytest.raises(HeldError, match="could not be renewed in time"):
            held.check()


@pytest.mark.parametrize("sleeping", [True, False])
def test_the_clock_of_the_holder(monkeypatch: pytest.MonkeyPatch, *, sleeping: bool) -> None:
    """It counts the time that the machine slept, where there is such a clock, and never goes back."""
    if not sleeping:
        monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    elif not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("only Linux has this clock")
    expected = (lambda: time.clock_gettime(time.CLOCK_BOOTTIME)) if sleeping else time.monotonic
    before_s = expected()
    assert before_s <= module._steady_s() <= expected()  # noqa: SLF001 - what is tested


def test_a_race_has_one_winner(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's lease that appears between looking and making is respected, and so is one that is renewed."""
    with lease(cluster).held():
        pass
    with monkeypatch.context() as patch:
        get = cluster.get
        patch.setattr(cluster, "get", lambda path: None if path == PATH else get(path))
        with pytest.raises(HeldError, match="at this moment"), lease(cluster).held():
            pytest.fail("there are two")

    def changed(*_: Any) -> None:  # noqa: ANN401 - any call
        raise ConflictError("changed")

    with lease(cluster).held(renew_every_s=0.01) as held:
        monkeypatch.setattr(cluster, "replace", changed)
        with pytest.raises(HeldError, match="was lost: changed"):
            _wait(held.check)  # type: ignore[func-returns-value]  # raises in the end


def _wait(condition: Any) -> None:  # noqa: ANN401 - any condition
    ends_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)
