"""Faults of where models come from, while a predictor follows an alias of a registry; and a disk that is full.

What belongs here: MinIO and MLflow that are gone, or lie. What does not: how they are run (`registry`).

In all of them the model that is served goes on answering, and when the fault is over the alias is obeyed again.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from contextlib import nullcontext
from typing import TYPE_CHECKING

import kernel
from chaos_outcome import Promise
from chaos_stack import Shape
from faults import HOUR_S, Fault, disturbed, killed, stopped
from tcp_proxy import Disturbance

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from chaos_stack import Stack

SERVED_GOES_ON = Promise(
    text="No request fails, the model that is served stays; then the alias is obeyed.", same_model=True
)
PINNED = Promise(text="No request fails, and nothing but the pinned digest is ever served.", same_model=True)
OBEYED_S = 20.0
"""By then an alias is obeyed again: the source's own retries and timeouts, and loading."""

_CALL_S, _START_S = 5.0, 60.0
_GARBAGE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"model_v'


def obeys(stack: Stack) -> None:
    """Let the alias mean the better model: it has to be served soon."""
    stack.registry.point(stack.versions["better"])
    began_s = time.monotonic()
    while _served(stack) != stack.digests["better"]:
        if time.monotonic() > began_s + OBEYED_S:
            stack.broken.append(f"the alias was not obeyed within {OBEYED_S:.0f} s")
            return
        time.sleep(0.1)
    stack.notes.append(f"the alias was obeyed after {time.monotonic() - began_s:.1f} s")


def _served(stack: Stack) -> str:
    address = stack.parts["predictor"].address
    with urllib.request.urlopen(f"http://{address}/v2/models/localization", timeout=_CALL_S) as answer:
        return str(json.load(answer)["parameters"]["model_digest"])


def points_to(
    model: str, meanwhile: Callable[[Stack], AbstractContextManager[None]] = lambda _: nullcontext()
) -> Callable[[Stack, float], None]:
    """The alias means this model for a time, while something else is wrong as well; then the first one again."""

    def inject(stack: Stack, seconds: float) -> None:
        with meanwhile(stack):
            stack.registry.point(stack.versions[model])
            time.sleep(seconds)
            stack.registry.point(stack.versions["reference"])

    return inject


def _on_link(name: str, disturbance: Disturbance) -> Callable[[Stack], AbstractContextManager[None]]:
    return lambda stack: stack.links[name].disturbed(disturbance)


def _refuses_to_start(stack: Stack) -> None:
    """A predictor that is pinned to the first model does not start on another one, and says why."""
    stack.registry.point(stack.versions["better"])
    predictor = stack.parts["predictor"]
    environ = {**os.environ, **predictor.environ}
    ended = subprocess.run(
        predictor.command, env=environ, capture_output=True, text=True, timeout=_START_S, check=False
    )
    reason = (ended.stderr.splitlines() or [""])[-1]
    if not ended.returncode or stack.digests["reference"] not in reason:
        stack.broken.append(f"a predictor pinned to another digest ended with {ended.returncode}: {reason[:200]}")


def _fetches_with_a_wrong_clock(stack: Stack, seconds: float) -> None:
    """Signatures of S3 carry the time; servers refuse what is 15 minutes off."""
    with stack.clocks["predictor"].off(HOUR_S):
        time.sleep(2.5)  # see Clock.set
        stack.registry.point(stack.versions["better"])
        time.sleep(seconds)
    stack.registry.point(stack.versions["reference"])


_REGISTRY = Shape(registry=True)
_LINKED = Shape(registry=True, proxied=("minio", "mlflow"))

FAULTS = (
    Fault(name="MinIO killed", promise=SERVED_GOES_ON, inject=killed("minio"), shape=_REGISTRY, check=obeys),
    Fault(name="MinIO stopped", promise=SERVED_GOES_ON, inject=stopped("minio"), shape=_REGISTRY, check=obeys),
    Fault(name="MLflow killed", promise=SERVED_GOES_ON, inject=killed("mlflow"), shape=_REGISTRY, check=obeys),
    Fault(name="MLflow stopped", promise=SERVED_GOES_ON, inject=stopped("mlflow"), shape=_REGISTRY, check=obeys),
    Fault(
        name="registry names a version without files",
        promise=SERVED_GOES_ON,
        inject=points_to("missing"),
        shape=_REGISTRY,
        check=obeys,
    ),
    Fault(
        name="registry names a truncated model",
        promise=SERVED_GOES_ON,
        inject=points_to("corrupt"),
        shape=_REGISTRY,
        check=obeys,
    ),
    Fault(
        name="downloads end too early",
        promise=SERVED_GOES_ON,
        inject=points_to("better", _on_link("minio", Disturbance(cut_after_bytes=20_000))),
        shape=_LINKED,
        check=obeys,
    ),
    Fault(
        name="registry answers garbage",
        promise=SERVED_GOES_ON,
        inject=disturbed("mlflow", Disturbance(garbage=_GARBAGE)),
        shape=_LINKED,
        check=obeys,
    ),
    Fault(
        name="registry names a model of another digest",
        promise=PINNED,
        inject=points_to("better"),
        shape=Shape(registry=True, pinned=True),
        check=_refuses_to_start,
    ),
    Fault(
        name="predictor's clock an hour ahead of MinIO's",
        promise=SERVED_GOES_ON,
        inject=_fetches_with_a_wrong_clock,
        shape=Shape(registry=True, clocks=("predictor",)),
        check=obeys,
    ),
    Fault(
        name="disk full",
        promise=SERVED_GOES_ON,
        inject=points_to("better", lambda stack: kernel.full_disk(stack.downloads)),
        shape=Shape(registry=True, small_disk=True),
        check=obeys,
    ),
)
