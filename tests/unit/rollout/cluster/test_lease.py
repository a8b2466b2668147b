from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rollout.errors import ClusterError, ConflictError, HeldError
from rollout.lease import DURATION_S, Lease

if TYPE_CHECKING:
    from conftest import FakeApi

PATH = "/apis/coordination.k8s.io/v1/namespaces/radio/leases/heimdall-rollout-loc"


def lease(api: FakeApi, holder: str | None = "me") -> Lease:
    """The lease of the service `loc`."""
    return Lease(api, "radio", "loc", holder)  # type: ignore[arg-type]  # the part of it that is used


def test_two_at_once_are_refused(api: FakeApi) -> None:
    """The second is told who has it and since when; afterwards it gets it."""
    with lease(api).held() as held:
        held.check()
        assert "me holds the lease heimdall-rollout-loc since 2" in held.holder()
        with pytest.raises(HeldError, match="me holds the lease"), lease(api, "other").held():
            pytest.fail("there are two")
    assert held.holder() == ""
    with lease(api, "other").held():
        assert api.objects[PATH]["spec"]["holderIdentity"] == "other"
        assert api.objects[PATH]["spec"]["leaseTransitions"] == 1


def test_a_holder_has_a_name(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the image, whose user has none."""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    with lease(api, None).held() as held:
        assert "(process " in held.holder()


def test_one_that_was_not_renewed_can_be_taken(api: FakeApi) -> None:
    """As after a killed run: for its duration nobody gets it, then anybody."""
    with lease(api, "killed").held():
        left = dict(api.objects[PATH])
    late = datetime.now(UTC) - timedelta(seconds=DURATION_S + 1)
    spec = left["spec"] | {"renewTime": late.isoformat()}
    api.objects[PATH] = left | {"spec": spec}
    with lease(api).held() as held:
        assert held.holder().startswith("me holds")
    api.objects[PATH]["spec"] = {"holderIdentity": "somebody"}
    assert held.holder() == ""


def test_it_is_renewed_while_it_is_held(api: FakeApi) -> None:
    """Which keeps others away however long the run takes."""
    with lease(api).held(renew_every_s=0.01):
        first = api.objects[PATH]["spec"]["renewTime"]
        _wait(lambda: api.objects[PATH]["spec"]["renewTime"] > first)


@pytest.mark.parametrize("gone", [True, False])
def test_a_lost_lease_is_noticed(api: FakeApi, *, gone: bool) -> None:
    """Before the next change, whether it was deleted or another run has taken it; the other's is left alone."""
    with lease(api).held(renew_every_s=0.01) as held:
        if gone:
            del api.objects[PATH]
        else:
            api.objects[PATH] = api.objects[PATH] | {"spec": api.objects[PATH]["spec"] | {"holderIdentity": "thief"}}
        with pytest.raises(HeldError, match="was lost: it is gone" if gone else "thief holds"):
            _wait(held.check)  # type: ignore[func-returns-value]  # raises in the end
    assert gone or api.objects[PATH]["spec"]["holderIdentity"] == "thief"


def test_a_cluster_that_is_away_for_a_moment_costs_nothing(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewal is tried again; only when the duration is over the lease counts as lost."""
    with lease(api).held(renew_every_s=0.01) as held:

        def away(*_: Any) -> None:  # noqa: ANN401 - any call
            raise ClusterError("away")

        with monkeypatch.context() as patch:
            patch.setattr(api, "get", away)
            time.sleep(0.05)
            held.check()
        renewed = api.objects[PATH]["spec"]["renewTime"]
        _wait(lambda: api.objects[PATH]["spec"]["renewTime"] > renewed)
        monkeypatch.setattr("rollout.lease.DURATION_S", -1)
        with pytest.raises(HeldError, match="could not be renewed in time"):
            held.check()


def test_a_race_has_one_winner(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's lease that appears between looking and making is respected, and so is one that is renewed."""
    with lease(api).held():
        pass
    with monkeypatch.context() as patch:
        patch.setattr(api, "get", lambda _: None)
        with pytest.raises(HeldError, match="at this moment"), lease(api).held():
            pytest.fail("there are two")

    def changed(*_: Any) -> None:  # noqa: ANN401 - any call
        raise ConflictError("changed")

    with lease(api).held(renew_every_s=0.01) as held:
        monkeypatch.setattr(api, "replace", changed)
        with pytest.raises(HeldError, match="was lost: changed"):
            _wait(held.check)  # type: ignore[func-returns-value]  # raises in the end


def _wait(condition: Any) -> None:  # noqa: ANN401 - any condition
    ends_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)
