"""The service that faults are injected into, on this machine: its parts, its links, and what they can be made to do.

What belongs here: which parts there are and how they are connected. What does not: the faults themselves.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kernel
import registry
from processes import Part, predictor_part, redis_part, running, transformer_part
from registry import Registry
from tcp_proxy import Proxy, proxied

from predictor.artifact import digest_of
from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FOLLOW_S = 0.5
CONTAINER_BYTES = 1 << 30
"""The chart's memory limit of predictor and transformer."""

DISK_BYTES = 1 << 20
"""Room for a few models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a stack is built.

    Attributes:
        proxied: Links that go through a proxy: to "predictor", "redis", "minio" or "mlflow".
        registry: Whether the predictor follows an alias of a registry, whose files lie in MinIO.
        pinned: Whether it serves nothing but the model that the alias means at first, by digest.
        clocks: The parts that have a wall clock of their own.
        small_disk: Whether downloads and graphs go to a disk of `DISK_BYTES`.
        containers: Whether predictor and transformer may use `CONTAINER_BYTES` of memory each.
    """

    proxied: tuple[str, ...] = ()
    registry: bool = False
    pinned: bool = False
    clocks: tuple[str, ...] = ()
    small_disk: bool = False
    containers: bool = False

    def missing(self) -> str:
        """What it needs and this machine does not have; empty if it can be built."""
        needs = {
            "redis-server": bool(shutil.which("redis-server")),
            "minio": not self.registry or bool(registry.minio_program()),
            "libfaketime": not self.clocks or bool(kernel.Clock.library()),
            "a mount namespace of its own (root)": not self.small_disk or kernel.inside(),
            "a memory controller (root)": not self.containers or kernel.memory_can_be_limited(),
        }
        return ", ".join(name for name, there in needs.items() if not there)


@dataclass(slots=True, kw_only=True)
class Stack:
    """A running stack.

    Attributes:
        folder: Logs, and everything that is kept.
        parts: Name → process.
        links: Name of the part at its end → proxy, where there is one.
        clocks: Name of a part → its wall clock, where it has one.
        groups: Name of a part → its control group, where its memory is limited.
        versions: Name of a model → its version in the registry, where there is one.
        digests: Name of a model → digest of its file.
        notes: What a fault has to tell beside the requests.
        broken: What of it is not as it should be.
    """

    folder: Path
    parts: dict[str, Part] = field(default_factory=dict)
    links: dict[str, Proxy] = field(default_factory=dict)
    clocks: dict[str, kernel.Clock] = field(default_factory=dict)
    groups: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def downloads(self) -> Path:
        """Where the predictor keeps what it fetches."""
        return self.folder / "disk"

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{self.parts['transformer'].address}"

    @property
    def registry(self) -> Registry:
        """The registry, past any proxy."""
        return Registry(f"http://{self.parts['mlflow'].address}")

    def port(self, name: str) -> int:
        """Where a part is reached by the others."""
        return self.links[name].port if name in self.links else self.parts[name].port


@contextmanager
def stack_of(shape: Shape, folder: Path, models: Path) -> Iterator[Stack]:
    """A stack of this shape that is ready; gone at the end.

    Args:
        shape: How it is built.
        folder: For logs and data; made if it is missing.
        models: Where the reference models are made once and kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = prepare(models, ("reference", "better", "corrupt"))
    stack = Stack(folder=folder, digests={name: digest_of(path / "model.onnx") for name, path in found.items()})
    with ExitStack() as exits:
        if shape.small_disk:
            exits.enter_context(kernel.small_disk(stack.downloads, DISK_BYTES))
        if shape.registry:
            _start_registry(stack, shape, found, exits)
        _start(stack, shape, redis_part(folder), exits)
        _start(stack, shape, _predictor(stack, shape, found["reference"]), exits)
        cache = ("--redis_host=127.0.0.1", f"--redis_port={stack.port('redis')}")
        _start(stack, shape, transformer_part(folder, f"127.0.0.1:{stack.port('predictor')}", *cache), exits)
        yield stack


def _predictor(stack: Stack, shape: Shape, model: Path) -> Part:
    own = ["--warmup_batch_sizes=1"]
    if shape.small_disk:
        own.append(f"--graph_cache_dir={stack.downloads / 'graphs'}")
    if not shape.registry:
        return predictor_part(stack.folder, f"--model_dir={model}", *own)
    own += [f"--model_uri=models:/{registry.MODEL}@{registry.ALIAS}", f"--download_dir={stack.downloads}"]
    own += [f"--follow_s={FOLLOW_S}", *((f"--model_digest={stack.digests['reference']}",) if shape.pinned else ())]
    return predictor_part(stack.folder, *own, environ=registry.access(stack.port("minio"), stack.port("mlflow")))


def _start(stack: Stack, shape: Shape, part: Part, exits: ExitStack) -> None:
    if part.name in shape.clocks:
        clock = stack.clocks[part.name] = kernel.Clock(stack.folder / f"{part.name}.clock")
        part.environ = {**part.environ, **clock.environ}
    if shape.containers and part.name != "redis":
        stack.groups[part.name] = exits.enter_context(kernel.limited_memory(part, CONTAINER_BYTES))
    stack.parts[part.name] = part
    exits.enter_context(running(part))
    if part.name in shape.proxied:
        stack.links[part.name] = exits.enter_context(proxied(part.port))


def _start_registry(stack: Stack, shape: Shape, models: Mapping[str, Path], exits: ExitStack) -> None:
    """MinIO and MLflow with these models, and with one whose files are missing; the alias means the first."""
    for part in (registry.minio_part(stack.folder), registry.mlflow_part(stack.folder)):
        _start(stack, Shape(proxied=shape.proxied), part, exits)
    contents = {f"{name}/model.onnx": (folder / "model.onnx").read_bytes() for name, folder in models.items()}
    registry.fill_bucket(stack.parts["minio"].port, contents)
    stack.registry.create()
    stack.versions |= {name: stack.registry.register(name) for name in (*models, "missing")}
    stack.registry.point(stack.versions["reference"])
