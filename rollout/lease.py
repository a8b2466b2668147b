"""One run at a time on one service: a Lease of coordination.k8s.io.

What belongs here: taking, renewing and giving back the lease. What does not: what is done while it is held.

As in client-go's leader election (tools/leaderelection), a lease that was not renewed for its duration may be taken by
anybody, and every change names the resourceVersion that it is based on, so that of two who try only one succeeds.
Whether it is renewed is seen by looking at it, never by comparing its times with this machine's clock, which may be
minutes away from its holder's: it is taken when nothing has changed for its duration. Who finds it held is told so at
the next renewal. Its holder counts by a clock that does not jump; the times in the lease are for people.
"""

from __future__ import annotations

import getpass
import math
import os
import platform
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rollout.errors import ClusterError, ConflictError, HeldError
from rollout.inference_service import InferenceService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rollout.kubernetes_api import KubernetesApi

DURATION_S = 45
RENEW_EVERY_S = 10.0
"""Four renewals may fail before another run takes over."""

_LOOK_EVERY_S = 1.0
"""At a lease that somebody holds, or held."""


class Lease:
    """The lease of one service's releases, not held yet.

    Args:
        api: Of the service's cluster.
        namespace: The service's.
        service: Its name.
        holder: Who wants it.
        waiting: Told that somebody else's lease is watched.
        sleep: Waits.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        service: str,
        holder: str | None = None,
        *,
        waiting: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._service = InferenceService(api, namespace, service)
        self._waiting, self._sleep = waiting, sleep
        self._name = f"heimdall-rollout-{service}"
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{self._name}"
        self._holder = holder or _me()
        self._lost = ""
        self._renewed_s = -math.inf

    @contextmanager
    def held(self, renew_every_s: float = RENEW_EVERY_S) -> Iterator[Lease]:
        """Hold it, renewed by a thread of its own.

        Raises:
            HeldError: Somebody else has it; the message says who, and since when.
            RefusedError: There is no such service.
        """
        self._take()
        done = threading.Event()
        thread = threading.Thread(target=self._keep, args=(done, renew_every_s), name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            self._give_back()

    def check(self) -> None:
        """Before every change; raises `HeldError` when the lease was lost or could not be renewed in time."""
        late = _steady_s() - self._renewed_s > DURATION_S
        if self._lost or late:
            raise HeldError(f"the lease {self._name} was lost: {self._lost or 'it could not be renewed in time'}")

    def holder(self) -> str:
        """Who holds it now, and since when, by the clocks of both machines; empty if nobody does."""
        found = self._api.get(self._path)
        return _held_by(found) if found and _seems_held(found) else ""

    def _take(self) -> None:
        found = self._free()
        owner = self._service.reference()
        asked_s = _steady_s()
        try:
            if found is None:
                self._api.create(self._collection, self._document(None, owner))
            else:
                self._api.replace(self._path, self._document(found, owner))
        except ConflictError as error:
            raise HeldError(f"another run took the lease {self._name} at this moment") from error
        self._renewed_s = asked_s

    def _free(self) -> dict[str, Any] | None:
        """The lease once nobody holds it, or nobody has renewed it for its duration; None where there is none."""
        found = self._api.get(self._path)
        first = found and found["spec"]
        watched_s = 0.0
        while found is not None and (duration_s := _held_for_s(found)) > watched_s:
            if watched_s == 0.0:
                self._waiting(f"{_held_by(found)}: it is free when nobody renews it for {duration_s:g} s")
            self._sleep(_LOOK_EVERY_S)
            watched_s += _LOOK_EVERY_S
            found = self._api.get(self._path)
            if found is not None and _held_for_s(found) and found["spec"] != first:
                raise HeldError(_held_by(found))
        return found

    def _keep(self, done: threading.Event, every_s: float) -> None:
        while not self._lost and not done.wait(every_s):
            try:
                self._renew()
            except ConflictError as error:
                self._lost = str(error)
            except ClusterError:
                continue  # the next attempt may succeed; `check` sees when it is too late

    def _renew(self) -> None:
        asked_s = _steady_s()
        found = self._api.get(self._path)
        if found is None or found["spec"].get("holderIdentity") != self._holder:
            self._lost = "it is gone" if found is None else _held_by(found)
            return
        found["spec"]["renewTime"] = _micro(datetime.now(UTC))
        self._api.replace(self._path, found)
        self._renewed_s = asked_s

    def _give_back(self) -> None:
        try:
            found = self._api.get(self._path)
            if found is not None and found["spec"].get("holderIdentity") == self._holder:
                found["spec"]["holderIdentity"] = ""
                self._api.replace(self._path, found)
        except ClusterError:
            return  # it ends by itself

    def _document(self, found: dict[str, Any] | None, owner: dict[str, Any]) -> dict[str, Any]:
        now = _micro(datetime.now(UTC))
        metadata = {"name": self._name, "namespace": self._namespace} if found is None else found["metadata"]
        metadata = metadata | {"ownerReferences": [owner]}
        transitions = 0 if found is None else found["spec"].get("leaseTransitions", 0) + 1
        spec = {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _steady_s() -> float:
    """Seconds by a clock that nobody sets; on Linux one that goes on while the machine sleeps, as the lease does."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _me() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in the image
        user = str(os.getuid())
    return f"{user}@{platform.node()} (process {os.getpid()})"


def _held_for_s(found: dict[str, Any]) -> float:
    """How long it stays its holder's without being renewed; 0 if it has none."""
    spec = found.get("spec", {})
    return float(spec.get("leaseDurationSeconds", DURATION_S)) if spec.get("holderIdentity") else 0.0


def _seems_held(found: dict[str, Any]) -> bool:
    if not _held_for_s(found) or not found["spec"].get("renewTime"):
        return False
    renewed_at = datetime.fromisoformat(found["spec"]["renewTime"])
    return datetime.now(UTC) - renewed_at < timedelta(seconds=_held_for_s(found))


def _held_by(found: dict[str, Any]) -> str:
    spec = found["spec"]
    return (
        f"{spec.get('holderIdentity') or 'nobody'} holds the lease {found['metadata']['name']} since "
        f"{spec.get('acquireTime', '?')}, renewed at {spec.get('renewTime', '?')}"
    )


def _micro(at: datetime) -> str:
    """Kubernetes's MicroTime."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
