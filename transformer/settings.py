"""What an operator may set, each with its meaning, its unit and the reason for its default.

What belongs here: every default, once, and reading them from the command line. What does not: anything that acts on a
setting. The SDK's own arguments keep the SDK's names.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from oip.cpu_quota import available_cpus
from oip.option_readers import DAY_S, flag, matching, seconds, whole
from transformer.arms import Arm
from transformer.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


_ENVIRONMENT: Mapping[str, str] = {
    "cors_origins": "HEIMDALL_CORS_ORIGINS",
    "inference_service": "HEIMDALL_INFERENCE_SERVICE",
    "mlflow_tracking_uri": "MLFLOW_TRACKING_URI",
    "predictor_readiness": "HEIMDALL_PREDICTOR_READINESS",
    "redis_url": "REDIS_URL",
    "redis_host": "REDIS_HOST",
    "redis_port": "REDIS_PORT",
    "redis_db": "REDIS_DB",
    "redis_password": "REDIS_PASSWORD",
    "registered_model": "HEIMDALL_REGISTERED_MODEL",
}
"""Settings that the environment gives when the command line does not."""

_SECRET = ("mlflow_tracking_uri", "redis_url", "redis_password")
"""Settings whose text no message may quote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The transformer's settings. The names of the first seven are the KServe SDK's."""

    predictor_host: str
    """Host and optional port of the predictor, as KServe hands it over. There is no default: nothing works without."""

    model_name: str = "localization"
    """The model's name in URLs, here and at the predictor; the name in the client's contract."""

    predictor_use_ssl: bool = False
    """Whether the predictor is called over TLS; False as in the SDK, because the mesh or the node does it."""

    predictor_request_timeout_seconds: int = 10
    """Longest time for one call of the predictor, in whole seconds because the SDK reads it too. The SDK's 600 s would
    hold a client far beyond its patience."""

    http_port: int = 8080
    """TCP port of V2 and REST; the SDK's default, which Knative routes to."""

    grpc_port: int = 9080
    """TCP port of gRPC. Not the SDK's default 8081, which is the predictor's HTTP port on one machine."""

    enable_grpc: bool = True
    """Whether gRPC is served too; the SDK's default. Through Knative only one port can be reached."""

    request_timeout_s: float = 30.0
    """Time budget of a request in seconds, waiting included; a client may lower its own. Below KServe's 60 s, so that
    the client gets this service's own answer."""

    connect_timeout_s: float = 1.0
    """Longest time for opening a connection to the predictor; on one network a second means that it is gone."""

    metadata_timeout_s: float = 10.0
    """Longest time for asking the predictor's readiness or metadata, which cost it nothing, but for a predictor that is
    started for them: from zero one answered after 3 to 4 s."""

    predictor_restart_s: float = 0.0
    """Longest wait in seconds for a predictor that is being restarted, counted from when it was first missed; 0 for
    none. For collocated mode, where only the same pod's predictor can be asked. Elsewhere others take over, and asking
    again finds them."""

    drain_s: float = 3.0
    """Seconds after SIGTERM in which requests are still accepted: about as long as Kubernetes needs to tell everybody
    that the pod is gone. Then the listeners close and what is in flight ends."""

    max_body_bytes: int = 64 * 1024 * 1024
    """Largest request body in bytes, after decompression: 267 captures of [7,4480,2] FP32; more is refused with 413."""

    max_bodies_bytes: int = 256 * 1024 * 1024
    """Largest bodies in bytes of all requests together; beyond them 503. With what is made of them about 1.7 times as
    much memory: 450 MB beside the process's own."""

    max_json_bytes: int = 16 * 1024 * 1024
    """Largest JSON text in bytes: 11 captures in a REST batch. Parsed, it can take 18 times as much memory; binary
    tensors take none."""

    max_batch: int = 256
    """Most items of one request: about as many as the largest body holds in FP32, and their features fit into the
    predictor's."""

    dsp_threads: int = 0
    """Threads for the signal processing of requests with more than two captures, smaller ones being computed in place;
    0 is the CPU quota: the work is all computing, so more would only compete."""

    max_queue: int = 128
    """Requests that may wait for their turn; more are refused with 503 at once. Room for a hundred clients that come
    together. Above the `containerConcurrency` that the chart sets, so that waiting happens where the autoscaler sees
    it."""

    max_calls: int = 64
    """Calls of one predictor at once; more wait here, where a waiting request costs nothing and has a deadline. Half
    of what the predictor's own queue takes (`max_queue` there), for two transformers: beyond it would answer 503."""

    settling_s: float = 10.0
    """Seconds after the start of this process, and after its first call of a revision, whose calls do not count for
    `transformer_upstream_settled_duration_seconds`, by which a canary's latency is judged."""

    log_level: str = "INFO"
    """Least level of the lines in the log."""

    inference_service: str = ""
    """The InferenceService whose traffic status is watched for the arms of a canary; also from
    HEIMDALL_INFERENCE_SERVICE. Empty: one arm, as on one machine or in collocated mode."""

    predictor_readiness: bool = True
    """Whether readiness follows the predictor's; also from HEIMDALL_PREDICTOR_READINESS. False where the predictor may
    scale to zero, which asking would prevent."""

    redis_url: str = field(default="", repr=False)
    """The shared cache as a URL, with TLS as rediss://; wins over host and port; also from REDIS_URL. Not in the
    representation, for it may hold a password."""

    redis_host: str = ""
    """Host of the shared cache; also from REDIS_HOST. With neither this nor a URL, answers are kept in the process."""

    redis_port: int = 6379
    """Port of the shared cache; Redis' own default; also from REDIS_PORT."""

    redis_db: int = 0
    """Number of the database there; Redis' own default; also from REDIS_DB."""

    redis_password: str = field(default="", repr=False)
    """Password there; from REDIS_PASSWORD, to be kept out of URLs and command lines."""

    cache_ttl_s: int = 3600
    """How long an answer is kept: an hour, as in the service that this one replaces."""

    cache_timeout_s: float = 0.010
    """What a slow Redis may cost a request: less than computing the answer again for a small batch."""

    cache_max_bytes: int = 64 * 1024 * 1024
    """Memory of the cache in the process, where there is no Redis: about 150,000 answers."""

    mlflow_tracking_uri: str = field(default="", repr=False)
    """The MLflow server that knows which aliases the served version has, for `GET /model/info` alone; also from
    MLFLOW_TRACKING_URI, with credentials by MLflow's own names in the environment. Empty: no aliases are told."""

    registered_model: str = "localization_model"
    """The registered model there whose versions are served; also from HEIMDALL_REGISTERED_MODEL. The default is the
    rollout's."""

    cors_origins: tuple[str, ...] = ("http://localhost:3000", "http://localhost:5173")
    """Origins of the web front end that browsers may call from, separated by commas; also from HEIMDALL_CORS_ORIGINS.
    The default are the usual development servers."""

    @property
    def dsp_threads_or_quota(self) -> int:
        """`dsp_threads` with 0 replaced by the CPU quota."""
        return self.dsp_threads or available_cpus()

    @property
    def arm(self) -> Arm:
        """The only arm where no InferenceService says otherwise."""
        return Arm("stable", f"{'https' if self.predictor_use_ssl else 'http'}://{self.predictor_host}")

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
            BadSettings: Names everything that is wrong at once.
            SystemExit: An option is unknown or has no value (argparse prints the usage).
        """
        texts = {setting: environ[name] for setting, name in _ENVIRONMENT.items() if name in environ}
        texts |= _options(argv, sdk_parser)
        values, problems = _read_all(texts)
        if "predictor_host" not in texts:
            problems.append("--predictor_host is missing")
        if problems:
            raise BadSettings("; ".join(problems))
        settings = cls(**values)
        if settings.enable_grpc and settings.http_port == settings.grpc_port:
            raise BadSettings(f"--http_port and --grpc_port are both {settings.http_port}")
        return settings


def _options(argv: Sequence[str], sdk_parser: ArgumentParser | None) -> dict[str, str]:
    """The texts of our own options. What is left must be the SDK's.

    One parser for both would have to resolve conflicts, which takes the options out of the SDK's own parser.
    """
    parser = _parser()
    known, others = parser.parse_known_args(argv)
    if sdk_parser is not None:
        _, others = ArgumentParser(parents=[sdk_parser], add_help=False, allow_abbrev=False).parse_known_args(others)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return vars(known)


def _parser() -> ArgumentParser:
    """Every setting is an option that takes text, so that all bad ones can be reported together."""
    parser = ArgumentParser(
        prog="python -m transformer",
        description="Serves positions with error ellipses from IQ samples; settings.py explains the options.",
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )
    for one in fields(Settings):
        default = "none, it must be given" if one.default is MISSING else one.default
        parser.add_argument(f"--{one.name}", type=str, default=SUPPRESS, help=f"default: {default}")
    return parser


def _read_all(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, text in texts.items():
        try:
            values[name] = _READERS[name](text.strip())
        except ValueError as error:
            shown = "" if name in _SECRET else f" {text!r}"
            problems.append(f"{_ENVIRONMENT.get(name, '--' + name)}{shown}: {error}")
    return values, problems


def _origins(text: str) -> tuple[str, ...]:
    return tuple(origin.strip() for origin in text.split(",") if origin.strip())


_READERS: Mapping[str, Callable[[str], object]] = {
    "predictor_host": matching(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", "HOST or HOST:PORT"),
    "model_name": matching(r"[^/\s:]+", "a name without spaces, '/' and ':'"),
    "predictor_use_ssl": flag,
    "predictor_request_timeout_seconds": whole(1, DAY_S),
    "http_port": whole(1, 65535),
    "grpc_port": whole(1, 65535),
    "enable_grpc": flag,
    "request_timeout_s": seconds(),
    "connect_timeout_s": seconds(),
    "metadata_timeout_s": seconds(),
    "predictor_restart_s": seconds(positive=False),
    "drain_s": seconds(positive=False),
    "max_body_bytes": whole(1024),
    "max_bodies_bytes": whole(1024),
    "max_json_bytes": whole(1024),
    "max_batch": whole(1, 100_000),
    "dsp_threads": whole(0, 1024),
    "max_queue": whole(0, 100_000),
    "max_calls": whole(1, 100_000),
    "settling_s": seconds(positive=False),
    "log_level": matching(r"DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
    "inference_service": matching(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?)?", "the name of an InferenceService"),
    "predictor_readiness": flag,
    "redis_url": str,
    "redis_host": matching(r"[A-Za-z0-9._-]*", "a host"),
    "redis_port": whole(1, 65535),
    "redis_db": whole(0, 65535),
    "redis_password": str,
    "cache_ttl_s": whole(1),
    "cache_timeout_s": seconds(),
    "cache_max_bytes": whole(0, 2**40),
    "mlflow_tracking_uri": matching(
        r"(https?://([^\s/?#\[\]]+@)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[^\s?#]*)?)?",
        "the http:// or https:// address of an MLflow server",
    ),
    "registered_model": matching(r"[^/:@]+", "a registered model's name without '/', ':' and '@'"),
    "cors_origins": _origins,
}
"""How the text of each setting is read; a reader raises `ValueError` saying what is wrong."""
