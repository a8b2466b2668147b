"""What processes use while they are under load, sampled in the background.

What belongs here: the samples, and CPU time over a run. What does not: judging growth (`flatness`).
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from processes import Part, Usage

_KUBECTL_S = _KUBELET_S = 30.0


class CpuMeter(Protocol):
    """Something that knows how much CPU time its parts have taken."""

    def cpu_s(self) -> dict[str, float]:
        """Part → CPU seconds until now."""
        ...


class Processes:
    """CPU time of child processes, from the kernel.

    Args:
        parts: Which.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def cpu_s(self) -> dict[str, float]:
        """See `CpuMeter`."""
        return {part.name: part.usage().cpu_s for part in self._parts}


@dataclass(frozen=True, slots=True)
class ContainerCpu:
    """What a kubelet says of one container: CPU seconds until a moment (Unix time)."""

    part: str
    at_s: float
    cpu_s: float

    @classmethod
    def parse(cls, line: str) -> ContainerCpu:
        """Read a line of the metric `container_cpu_usage_seconds_total`."""
        labels, _, numbers = line.partition("{")[2].partition("} ")
        named = dict(one.split("=", 1) for one in labels.replace('"', "").split(","))
        component = next((one for one in ("predictor", "transformer") if f"-{one}-" in named["pod"]), "")
        part = f"{component} {named['container']}" if component else named["pod"].rsplit("-", 2)[0]
        cpu_s, at_ms = map(float, numbers.split())
        return cls(part, at_ms / 1e3, cpu_s)


class Pods:
    """CPU time of the containers of a namespace, from the kubelets (`/metrics/resource`).

    A kubelet looks at its containers every 10 to 20 s, so this waits until it has looked again.

    Args:
        namespace: Which.
    """

    def __init__(self, namespace: str) -> None:
        self._label = f'namespace="{namespace}"'

    def cpu_s(self) -> dict[str, float]:
        """See `CpuMeter`. Pods of one component and container count together."""
        asked_s = time.time()
        found = self._containers()
        while any(one.at_s < asked_s for one in found) and time.time() < asked_s + _KUBELET_S:
            time.sleep(1.0)  # a container that has ended keeps its last moment, so the wait has an end
            found = self._containers()
        totals: Counter[str] = Counter()
        for one in found:
            totals[one.part] += one.cpu_s
        return dict(totals)

    def _containers(self) -> list[ContainerCpu]:
        lines: list[str] = []
        for node in _kubectl("get", "nodes", "-o", "name").split():
            path = f"/api/v1/nodes/{node.partition('/')[2]}/proxy/metrics/resource"
            lines += _kubectl("get", "--raw", path).splitlines()
        wanted = [one for one in lines if one.startswith("container_cpu_usage_seconds_total{") and self._label in one]
        return [ContainerCpu.parse(one) for one in wanted]


def _kubectl(*words: str) -> str:
    command = ["kubectl", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_KUBECTL_S).stdout


@contextmanager
def cpu_spent(meter: CpuMeter | None) -> Iterator[dict[str, float]]:
    """Part → CPU seconds that it took in the block; filled at the block's end. Without a meter it stays empty."""
    spent: dict[str, float] = {}
    before = meter.cpu_s() if meter else {}
    yield spent
    after = meter.cpu_s() if meter else {}
    spent |= {part: after[part] - before[part] for part in before.keys() & after.keys()}


class Samples:
    """Usage of some processes, taken every `period_s` seconds inside a `with` block.

    Args:
        parts: Which.
        period_s: Between two samples.
    """

    def __init__(self, parts: Sequence[Part], period_s: float) -> None:
        self._parts = parts
        self._period_s = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.taken: dict[str, list[Usage]] = {part.name: [] for part in parts}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        next_s = time.monotonic()
        while not self._ended.wait(max(0.0, next_s - time.monotonic())):
            for part in self._parts:
                self.taken[part.name].append(part.usage())
            next_s += self._period_s
