"""Why pods do not start, from their states.

What belongs here: which states are a failure that waiting does not mend, and the words for it. What does not: how long
something that only takes time may take (the policy's `ready_within_s`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HOPELESS = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
"""Reasons to wait (Kubernetes, pkg/kubelet/images and kuberuntime) that repeat what has failed already."""

_ENDS = 2
"""So many ends of the same container before a crash counts: one may be the node's fault, out of memory for example."""

_LONGEST = 300


def pod_failure(pods: list[dict[str, Any]]) -> str:
    """One sentence on the first container that does not run and will not; empty if there is none."""
    return next((sentence for pod in pods for sentence in _failures(pod)), "")


def _failures(pod: Mapping[str, Any]) -> Iterator[str]:
    if "deletionTimestamp" in pod.get("metadata", {}):
        return
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            message = f": {waiting['message']}" if waiting.get("message") else ""
            yield f"container {container['name']} cannot start, {waiting['reason']}{message}"[:_LONGEST]
        elif waiting.get("reason") == "CrashLoopBackOff" and container.get("restartCount", 0) >= _ENDS:
            yield _crashed(container)


def _crashed(container: Mapping[str, Any]) -> str:
    last = container.get("lastState", {}).get("terminated") or {}
    message = str(last.get("message") or last.get("reason") or "").strip()
    words = f"container {container['name']} ended {container['restartCount']} times, last with exit code"
    # Of a traceback the last line says what happened.
    said = message.rpartition("\n")[2][:_LONGEST]
    return f"{words} {last.get('exitCode', '?')}: {said}".rstrip(": ")
