"""What an operator may set, each with its meaning, its unit and the reason for its default.

What belongs here: every default, once, and reading them from the command line and the environment. What does not:
looking whether a file or a port really exists.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oip.cpu_quota import available_cpus
from oip.option_readers import flag, matching, seconds, whole
from predictor.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_DEFAULT_THREADS = 8
"""More threads per operator rarely help a model that is served in small batches."""

ALL_VERSIONS = "all"
"""Stands for every version that there is."""


_ENVIRONMENT: Mapping[str, str] = {
    "providers": "ONNXRUNTIME_PROVIDERS",
    "model_version": "HEIMDALL_MODEL_VERSION",
    "model_digest": "HEIMDALL_MODEL_DIGEST",
}
"""Settings that the environment gives when the command line does not."""


def _default_threads() -> int:
    return min(available_cpus(), MAX_DEFAULT_THREADS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The predictor's settings. The names of the first six are the KServe SDK's."""

    model_name: str = "model"
    """The name in the URL. The default is the SDK's; KServe passes the InferenceService's."""

    http_port: int = 8080
    """TCP port of HTTP; the SDK's default."""

    grpc_port: int = 8081
    """TCP port of gRPC; the SDK's default."""

    enable_grpc: bool = True
    """Whether gRPC is served too; the SDK's default. Through Knative only one port can be reached."""

    max_body_bytes: int = 64 * 1024 * 1024
    """Largest request body in bytes, after decompression: 580 items of 7 × 32 × 128 FP32; more is refused with 413."""

    max_bodies_bytes: int = 256 * 1024 * 1024
    """Largest bodies in bytes of all requests together; beyond them 503. With what is made of them about 1.7 times as
    much memory: 450 MB beside the process's own."""

    request_timeout_s: float = 30.0
    """Time budget of a request in seconds, waiting included; a client may lower its own. Below KServe's 60 s."""

    log_level: str = "INFO"
    """Least level of the lines in the log."""

    drain_s: float = 3.0
    """Seconds after SIGTERM in which requests are still accepted: about as long as Kubernetes needs to tell everybody
    that the pod is gone. Then the listeners close and what is in flight ends."""

    model_dir: Path = Path("/mnt/models")
    """The directory of the model, or an .onnx file. KServe puts `storageUri` there."""

    model_uri: str | None = None
    """Where the model is fetched from instead: `s3://BUCKET/FOLDER`, `s3://BUCKET/…/NAME.onnx`, or from an MLflow
    registry `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/NAME/STAGE`. None: it is in `model_dir` already."""

    download_dir: Path = Path("~/.cache/heimdall/models")
    """Where models of `model_uri` are kept, a folder for each; in a pod an emptyDir."""

    download_timeout_s: float = 300.0
    """Time budget in seconds of asking for and fetching a model: 1 GB at 4 MB/s."""

    model_version: str | None = None
    """The version to serve, a whole number; also from HEIMDALL_MODEL_VERSION. None takes the highest there is, or 1 if
    the directory names none."""

    model_digest: str | None = None
    """`sha256:…` that the model has to have; also from HEIMDALL_MODEL_DIGEST. None takes the model as it is, as on a
    single machine."""

    also_versions: tuple[str, ...] = ()
    """Further versions in `model_dir` that are served too, under `/versions/…` only; `all` for every one there is."""

    repository_api: bool = False
    """Whether `/v2/repository/…` may load and unload, over HTTP and gRPC, for whoever reaches the port. Refused under
    Knative, where a revision must not change its model."""

    follow_s: float = 0.0
    """Seconds between two looks at `model_dir` or at what `model_uri` means now; whatever is new is loaded and then
    served. 0: never. For a single machine; refused under Knative."""

    session_threads: int = 0
    """Threads that share one operator; 0 chooses: the CPU quota, at most 8, which a large model wants, and 1 for one
    that runs in less than a millisecond (a small network took 13 µs of CPU with one thread, 24 µs with two)."""

    execution_threads: int = 0
    """Requests that are computed at once; 0 is the CPU quota, at most 8: more would only compete for the CPUs."""

    max_queue: int = 128
    """Requests that may wait for a worker; more are refused with 503 at once. Room for a hundred clients that come
    together while a busy machine makes runs wait for threads. Above the `containerConcurrency` that the chart sets, so
    that waiting happens where the autoscaler sees it."""

    max_batch_size: int = 1
    """Requests that wait for a worker at the same time are run together, up to so many items, where it was measured to
    pay while the model was warmed up. The default is never: a batch takes other paths through the same sums, and
    answers differed by up to 3e-6 of their size, so a request's answer would depend on its neighbours. Where
    throughput is worth that, 16 is a good value."""

    batch_wait_s: float = 0.0
    """Seconds that a worker waits for a batch to grow; 0: it takes what is there. A lone request never waits."""

    inline_run_us: int = 200
    """A model whose runs of this size were measured to take at most so many microseconds, and cannot take longer, runs
    in the event loop: handing over to a thread and back costs 60 to 100 µs of CPU. 0: never."""

    graph_cache_dir: Path | None = None
    """Where optimised graphs are kept, so that they are made once; None keeps none. Only this service may write there:
    it is trusted. Small networks gain nothing (`bench/batching.py`): it pays where optimising takes seconds."""

    warmup_batch_sizes: tuple[int, ...] = (1, 2, 8)
    """Batches of zeros run before the model is ready; memory grows with the last. Empty for a model that refuses zeros
    or axes of size 1."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime execution providers by preference; also from ONNXRUNTIME_PROVIDERS, separated by commas. The CPU is
    always there."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """`warmup_batch_sizes` with `max_batch_size` among them, unless nothing is warmed up."""
        sizes = self.warmup_batch_sizes
        return sizes if not sizes or self.max_batch_size == 1 else tuple(sorted({*sizes, 1, self.max_batch_size}))

    @property
    def session_threads_or_quota(self) -> int:
        """`session_threads` with 0 replaced by the CPU quota."""
        return self.session_threads or _default_threads()

    @property
    def execution_threads_or_quota(self) -> int:
        """`execution_threads` with 0 replaced by the CPU quota."""
        return self.execution_threads or _default_threads()

    @classmethod
    def from_args(
        cls, argv: Sequence[str], environ: Mapping[str, str], sdk_parser: ArgumentParser | None = None
    ) -> Settings:
        """Settings from the command line, then the environment, then the defaults.

        Args:
            argv: The arguments without the program's name.
            environ: The environment variables.
            sdk_parser: The KServe SDK's own parser; its options are accepted too, and left to the SDK.

        Raises:
            SettingsError: Names every bad value at once.
            SystemExit: An option is unknown or has no value (argparse prints the usage).
        """
        texts = {f"--{name}": text for name, text in vars(_parser(sdk_parser).parse_args(argv)).items()}
        for field, name in _ENVIRONMENT.items():
            if f"--{field}" not in texts and name in environ:
                texts[name] = environ[name]
        values, problems = _read_all(texts)
        if problems:
            raise SettingsError("; ".join(problems))
        settings = cls(**values)
        if settings.enable_grpc and settings.http_port == settings.grpc_port:
            raise SettingsError(f"--http_port and --grpc_port are both {settings.http_port}")
        if (settings.repository_api or settings.follow_s) and "K_REVISION" in environ:
            raise SettingsError("--repository_api, --follow_s: a Knative revision must not change its model")
        if settings.also_versions and settings.model_uri is not None:
            raise SettingsError("--also_versions: further versions are served from --model_dir only")
        return settings


def _parser(sdk_parser: ArgumentParser | None) -> ArgumentParser:
    """Every setting is an option that takes text, so that all bad ones can be reported together."""
    parser = ArgumentParser(
        prog="python -m predictor",
        description="Serves an ONNX model over the Open Inference Protocol; settings.py explains the options.",
        parents=[sdk_parser] if sdk_parser else [],
        conflict_handler="resolve",
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )
    for field in fields(Settings):
        parser.add_argument(f"--{field.name}", type=str, default=SUPPRESS, help=f"default: {field.default}")
    return parser


def _read_all(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values of these options and environment variables, and what is wrong with them; the SDK's options pass."""
    fields_of = {f"--{field}": field for field in _READERS} | {name: field for field, name in _ENVIRONMENT.items()}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name in texts.keys() & fields_of.keys():
        try:
            values[fields_of[name]] = _READERS[fields_of[name]](texts[name].strip())
        except ValueError as error:
            problems.append(f"{name} {texts[name]!r}: {error}")
    return values, sorted(problems)


def _optional(read: Callable[[str], str]) -> Callable[[str], str | None]:
    return lambda text: read(text) if text else None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return names or ("CPUExecutionProvider",)


def _batch_sizes(text: str) -> tuple[int, ...]:
    return tuple(whole(1, 4096)(size.strip()) for size in text.split(",") if size.strip())


def _versions(text: str) -> tuple[str, ...]:
    if text == ALL_VERSIONS:
        return (ALL_VERSIONS,)
    read = matching(r"[0-9]{1,18}", "a list of whole numbers with commas, or all")
    return tuple(read(version.strip()) for version in text.split(",") if version.strip())


_READERS: Mapping[str, Callable[[str], object]] = {
    "model_name": matching(r"[^/\s:]+", "a name without spaces, '/' and ':'"),
    "http_port": whole(1, 65535),
    "grpc_port": whole(1, 65535),
    "enable_grpc": flag,
    "max_body_bytes": whole(1024),
    "max_bodies_bytes": whole(1024),
    "request_timeout_s": seconds(positive=True),
    "log_level": matching(r"DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
    "drain_s": seconds(positive=False),
    "model_dir": Path,
    "model_uri": _optional(matching(r"(s3|models):\S+", "s3://… or models:/…")),
    "download_dir": Path,
    "download_timeout_s": seconds(positive=True),
    "model_version": _optional(matching(r"[0-9]{1,18}", "a whole number")),
    "model_digest": _optional(matching(r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits in lower case")),
    "also_versions": _versions,
    "repository_api": flag,
    "follow_s": seconds(positive=False),
    "session_threads": whole(0, 1024),
    "execution_threads": whole(0, 1024),
    "max_queue": whole(0, 100_000),
    "max_batch_size": whole(1, 4096),
    "batch_wait_s": seconds(positive=False),
    "inline_run_us": whole(0, 10_000),
    "graph_cache_dir": lambda text: Path(text) if text else None,
    "warmup_batch_sizes": _batch_sizes,
    "providers": _names,
}
"""How the text of each setting is read; a reader raises `ValueError` saying what is wrong."""
