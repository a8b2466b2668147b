"""What processes use while they are under load, sampled in the background.

What belongs here: the samples, and CPU time over a run. What does not: judging growth (`flatness`).
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from processes import Part, Usage

_KUBECTL_S = _KUBELET_S = 30.0


class CpuMeter(Protocol):
    """Something that knows how much CPU time its parts have taken."""

    def cpu_s(self) -> dict[str, float]:
        """Part → CPU seconds until now; never less than it said before."""
        ...

    def watching(self) -> AbstractContextManager[object]:
        """What has to go on between two calls, so that the second knows of all that happened."""
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

    def watching(self) -> AbstractContextManager[object]:
        """See `CpuMeter`. Nothing: the processes are there from the beginning to the end."""
        return nullcontext()


class Repeated:
    """Calls something every `period_s` seconds inside a `with` block, in a thread of its own.

    Args:
        call: What.
        period_s: Between two calls.
    """

    def __init__(self, call: Callable[[], None], period_s: float) -> None:
        self._call = call
        self._period_s = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._ended.wait(max(0.0, next_s - time.monotonic())):
            self._call()
            next_s += self._period_s


@dataclass(frozen=True, slots=True)
class ContainerCpu:
    """What a kubelet says of one container: CPU seconds until a moment (Unix time).

    Attributes:
        pod: Its pod's name, which no later pod has.
        container: Its name in the pod.
        at_s: The moment.
        cpu_s: Since it began.
    """

    pod: str
    container: str
    at_s: float
    cpu_s: float

    @property
    def part(self) -> str:
        """What it counts as: component and container, or the pod's name without its random end."""
        component = next((one for one in ("predictor", "transformer") if f"-{one}-" in self.pod), "")
        return f"{component} {self.container}" if component else self.pod.rsplit("-", 2)[0]

    @classmethod
    def parse(cls, line: str) -> ContainerCpu:
        """Read a line of the metric `container_cpu_usage_seconds_total`."""
        labels, _, numbers = line.partition("{")[2].partition("} ")
        named = dict(one.split("=", 1) for one in labels.replace('"', "").split(","))
        cpu_s, at_ms = map(float, numbers.split())
        return cls(named["pod"], named["container"], at_ms / 1e3, cpu_s)


class Pods:
    """CPU time of the containers of a namespace, from the kubelets (`/metrics/resource`).

    A kubelet looks at its containers every 10 to 20 s, so `cpu_s` waits until it has looked again. It forgets those
    that ended, so each is remembered here with what was last said of it: only what it took after that is missing.

    Args:
        namespace: Which.
        period_s: Between two looks while `watching`.
    """

    def __init__(self, namespace: str, period_s: float = 10.0) -> None:
        self._label = f'namespace="{namespace}"'
        self._period_s = period_s
        self._nodes: list[str] = []
        self._last: dict[tuple[str, str], ContainerCpu] = {}
        self._ended_s: Counter[str] = Counter()

    def cpu_s(self) -> dict[str, float]:
        """See `CpuMeter`. Pods of one component and container count together, those that have ended too."""
        asked_s = time.time()
        self._nodes = [one.partition("/")[2] for one in _kubectl("get", "nodes", "-o", "name").split()]
        found = self._look()
        while any(one.at_s < asked_s for one in found) and time.time() < asked_s + _KUBELET_S:
            time.sleep(1.0)  # a container that has ended keeps its last moment, so the wait has an end
            found = self._look()
        totals = Counter(self._ended_s)
        for one in self._last.values():
            totals[one.part] += one.cpu_s
        return dict(totals)

    def watching(self) -> AbstractContextManager[object]:
        """See `CpuMeter`. Looks now and then, so that a pod which ends meanwhile is known until shortly before."""
        return Repeated(self._try_to_look, self._period_s)

    def _try_to_look(self) -> None:
        try:
            self._look()
        except subprocess.SubprocessError as failure:  # the next look, or the one at the end, makes up for it
            sys.stderr.write(f"no CPU times this time: {failure}\n")

    def _look(self) -> list[ContainerCpu]:
        """What the kubelets say now, which is remembered."""
        paths = [f"/api/v1/nodes/{node}/proxy/metrics/resource" for node in self._nodes]
        lines = [line for path in paths for line in _kubectl("get", "--raw", path).splitlines()]
        wanted = [one for one in lines if one.startswith("container_cpu_usage_seconds_total{") and self._label in one]
        found = [ContainerCpu.parse(one) for one in wanted]
        for one in found:
            last = self._last.get((one.pod, one.container))
            if last is not None and one.cpu_s < last.cpu_s:  # started again in its pod, and counts from zero
                self._ended_s[one.part] += last.cpu_s
            self._last[one.pod, one.container] = one
        return found


def _kubectl(*words: str) -> str:
    command = ["kubectl", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_KUBECTL_S).stdout


@contextmanager
def cpu_spent(meter: CpuMeter | None) -> Iterator[dict[str, float]]:
    """Part → CPU seconds that it took in the block; filled at the block's end. Without a meter it stays empty."""
    spent: dict[str, float] = {}
    if meter is None:
        yield spent
        return
    before = meter.cpu_s()
    with meter.watching():
        yield spent
    spent |= {part: until_s - before.get(part, 0.0) for part, until_s in meter.cpu_s().items()}


class Samples(Repeated):
    """Usage of some processes, taken every `period_s` seconds inside a `with` block.

    Args:
        parts: Which.
        period_s: Between two samples.
    """

    def __init__(self, parts: Sequence[Part], period_s: float) -> None:
        super().__init__(self._take, period_s)
        self._parts = parts
        self.taken: dict[str, list[Usage]] = {part.name: [] for part in parts}

    def _take(self) -> None:
        for part in self._parts:
            self.taken[part.name].append(part.usage())
