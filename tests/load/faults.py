"""What a fault is, and faults of processes, links, clocks and memory.

What belongs here: the type, and every fault that needs no registry. What does not: those of the registry and the disk
(`faults_registry`), and running any of them (`chaos`).
"""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kernel
import numpy as np
import redis
from chaos_outcome import Promise
from chaos_stack import CONTAINER_BYTES, Shape
from records import NO_ANSWER
from tcp_proxy import Disturbance
from traffic import INFER, JSON_SIZE

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos_stack import Stack

NO_REQUEST_FAILS = Promise(text="No request fails.")
WITHOUT_PREDICTOR = Promise(
    text="What is cached is answered; the rest is refused at once with 503 and Retry-After.",
    statuses=frozenset({200, 503}),
)
PLAIN = Shape()
HOUR_S = 3600
_GREATEST_ITEMS = 256
_GREATEST_AT_ONCE = 16
_GREATEST_S = 40.0
_PROBE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, and what is promised then.

    Attributes:
        name: For people; unique.
        promise: What clients may see.
        inject: Lets it happen for so many seconds, and ends it.
        shape: Of the stack that it needs.
        check: Looks at the stack when the fault is over, while the load goes on.
        missing: What the fault itself needs and this machine does not have; empty if it can be made.
    """

    name: str
    promise: Promise
    inject: Callable[[Stack, float], None]
    shape: Shape = PLAIN
    check: Callable[[Stack], None] = lambda _: None
    missing: Callable[[], str] = lambda: ""


def killed(name: str) -> Callable[[Stack, float], None]:
    """SIGKILL; then it is started again, as its supervisor would, and the fault is over when it is ready."""

    def inject(stack: Stack, seconds: float) -> None:
        stack.parts[name].kill()
        time.sleep(seconds)
        stack.parts[name].start()
        stack.parts[name].wait()

    return inject


def stopped(name: str) -> Callable[[Stack, float], None]:
    """SIGSTOP: it keeps its connections and says nothing."""

    def inject(stack: Stack, seconds: float) -> None:
        process = stack.parts[name].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    return inject


def disturbed(link: str, disturbance: Disturbance) -> Callable[[Stack, float], None]:
    """The way to a part is disturbed."""

    def inject(stack: Stack, seconds: float) -> None:
        with stack.links[link].disturbed(disturbance):
            time.sleep(seconds)

    return inject


def _lossy(stack: Stack, seconds: float) -> None:
    with kernel.packets_lost(stack.parts["predictor"].port, percent=2) as lost:
        time.sleep(seconds)
        stack.notes.append(f"{lost()} packets lost")


def _clocks_off(stack: Stack, seconds: float) -> None:
    """An hour ahead for the first half of the time, and an hour behind for the second."""
    for off_s in (HOUR_S, -HOUR_S):
        with stack.clocks["transformer"].off(off_s), stack.clocks["predictor"].off(off_s):
            time.sleep(seconds / 2)


def _redis_clock_jumps(stack: Stack, seconds: float) -> None:
    """What a jump of Redis' clock does: every entry has an hour more or less to live, which for all means to be gone.

    Made by changing those times, because libfaketime and Redis' allocator do not bear each other.
    """
    with redis.Redis(port=stack.parts["redis"].port, socket_timeout=_PROBE_S) as client:
        for off_s in (HOUR_S, -HOUR_S):
            keys = list(client.scan_iter(count=1000))
            for key in keys:
                client.pexpire(key, client.pttl(key) - off_s * 1000)
            stack.notes.append(f"clock {off_s:+d} s: {len(keys)} entries before, {client.dbsize()} after")
            time.sleep(seconds / 2)


def _greatest_requests(stack: Stack, seconds: float) -> None:
    """Half as many clients as a pod serves at once send the largest batches that are accepted, again and again."""
    iq = np.random.default_rng(1).normal(scale=0.01, size=(_GREATEST_ITEMS, 7, 4480, 2)).astype(np.float32)
    encoded = encode_request(InferRequest((Tensor("iq", iq),), parameters={"cache": False}, binary_output=True))
    request = urllib.request.Request(stack.url + INFER, encoded.body, {JSON_SIZE: str(encoded.json_size)})
    until_s = time.monotonic() + seconds
    told: Counter[int] = Counter()

    def client() -> None:
        while time.monotonic() < until_s:
            status = _status(request)
            told[status] += 1
            time.sleep(0.0 if status else 0.1)

    with ThreadPoolExecutor(_GREATEST_AT_ONCE) as pool:
        for one in [pool.submit(client) for _ in range(_GREATEST_AT_ONCE)]:
            one.result()
    stack.notes.append(f"{_GREATEST_AT_ONCE} clients with {len(encoded.body) / 1e6:.0f} MB: {dict(told)}")
    _judge_memory(stack)


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=_GREATEST_S) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return NO_ANSWER


def _judge_memory(stack: Stack) -> None:
    """What the control groups have seen; who was killed is started again, as its supervisor would."""
    for name, group in stack.groups.items():
        used_mb = kernel.most_memory_bytes(group) / 1e6
        stack.notes.append(f"{name} used at most {used_mb:.0f} of {CONTAINER_BYTES / 1e6:.0f} MB")
        if stack.parts[name].process.poll() is not None:
            stack.broken.append(f"{name} was killed for its memory")
            stack.parts[name].start()
            stack.parts[name].wait()


FAULTS = (
    Fault(
        name="predictor killed",
        promise=WITHOUT_PREDICTOR,
        inject=killed("predictor"),
    ),
    Fault(
        name="predictor stopped",
        promise=Promise(
            text="What is cached is answered; the rest is told 504 or 503 within its deadline.",
            statuses=frozenset({200, 503, 504}),
            felt=True,
        ),
        inject=stopped("predictor"),
    ),
    Fault(
        name="transformer killed",
        promise=Promise(
            text="The only one: what is in flight is lost, and nobody is found until it is back; then it is as before.",
            lost=True,
        ),
        inject=killed("transformer"),
    ),
    Fault(
        name="transformer stopped",
        promise=Promise(
            text="The only one: its requests wait, and are answered or refused when it goes on.",
            statuses=frozenset({200, 503, 504}),
            late=True,
            felt=True,
        ),
        inject=stopped("transformer"),
    ),
    Fault(name="Redis killed", promise=NO_REQUEST_FAILS, inject=killed("redis")),
    Fault(name="Redis stopped", promise=NO_REQUEST_FAILS, inject=stopped("redis")),
    Fault(
        name="Redis slow",
        promise=NO_REQUEST_FAILS,
        inject=disturbed("redis", Disturbance(delay_s=0.05, jitter_s=0.1)),
        shape=Shape(proxied=("redis",)),
    ),
    Fault(
        name="predictor behind a slow network",
        promise=NO_REQUEST_FAILS,
        inject=disturbed("predictor", Disturbance(delay_s=0.05, jitter_s=0.05)),
        shape=Shape(proxied=("predictor",)),
    ),
    Fault(
        name="predictor behind a network that resets connections",
        promise=Promise(
            text="A call is tried again while the budget of retries lasts; beyond it 503 with Retry-After.",
            statuses=frozenset({200, 503}),
        ),
        inject=disturbed("predictor", Disturbance(reset=0.05)),
        shape=Shape(proxied=("predictor",)),
    ),
    Fault(
        name="predictor behind a network that loses packets",
        promise=NO_REQUEST_FAILS,
        inject=_lossy,
        missing=lambda: "" if kernel.inside() else "a network namespace of its own (root)",
    ),
    Fault(
        name="Redis' clock jumps by an hour",
        promise=Promise(text="No request fails and no answer is wrong; entries live longer or not so long."),
        inject=_redis_clock_jumps,
    ),
    Fault(
        name="clocks of transformer and predictor jump by an hour",
        promise=Promise(text="No request fails: deadlines and timeouts use the monotonic clock."),
        inject=_clocks_off,
        shape=Shape(clocks=("transformer", "predictor")),
    ),
    Fault(
        name="greatest requests at the memory limit",
        promise=Promise(
            text="Within the chart's limits; nobody is killed. Other clients wait, or are told 503 or 504 in time.",
            statuses=frozenset({200, 503, 504}),
        ),
        inject=_greatest_requests,
        shape=Shape(containers=True),
    ),
)
