"""The transformer's settings: every default in one place, read once from the command line and the environment.

What belongs here: names, units, defaults and their reasons. What does not: anything that acts on a setting. The SDK's
own arguments keep the SDK's names; where this component needs another default, the field says why.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from transformer.arms import Arm
from transformer.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def _parse_flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise ValueError(f"'{text}' is neither true nor false")
    return text.lower() in {"true", "1", "yes"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How one transformer runs. Each field is the argument `--NAME`; some can come from the environment too."""

    predictor_host: str
    """Host and optional port of the predictor, as KServe hands it over. There is no default: nothing works without."""

    model_name: str = "localization"
    """The model's name in URLs, here and at the predictor; the name in the client's contract."""

    predictor_use_ssl: bool = False
    """Whether the predictor is called over TLS; False as in the SDK, because the mesh or the node does it."""

    http_port: int = 8080
    """Port of V2 and REST; the SDK's default, which Knative routes to."""

    grpc_port: int = 9080
    """Port of gRPC. Not the SDK's default 8081, which is the predictor's HTTP port on one machine."""

    enable_grpc: bool = True
    """Whether the SDK's gRPC server runs as well."""

    request_timeout_s: float = 30.0
    """Longest time for one request; a client's `x-request-timeout-ms` can only lower it. Half of what the gateway
    allows by default, so that the client gets this service's own answer."""

    predictor_request_timeout_seconds: float = 10.0
    """Longest time for one call of the predictor; the SDK's 600 s would hold a client far beyond its patience."""

    connect_timeout_s: float = 1.0
    """Longest time for opening a connection to the predictor; on one network a second means that it is gone."""

    metadata_timeout_s: float = 2.0
    """Longest time for asking the predictor's readiness or metadata, which cost it nothing."""

    max_body_bytes: int = 64 * 1024 * 1024
    """Largest request body after decompression: 250 captures of [7,4480,2] FP32."""

    max_batch: int = 256
    """Most items of one REST batch; as many as a body of the largest size holds in binary."""

    dsp_threads: int = max(1, os.cpu_count() or 1)
    """Threads for signal processing; one a core, because the work is all computing."""

    cors_origins: tuple[str, ...] = ("http://localhost:3000", "http://localhost:5173")
    """Origins of the web front end that browsers may call from: the usual development servers. Comma-separated."""

    @property
    def arm(self) -> Arm:
        """The only arm where no InferenceService says otherwise."""
        return Arm("stable", f"{'https' if self.predictor_use_ssl else 'http'}://{self.predictor_host}")


def parse_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read the command line (`--http_port 8080`) and, behind it, the environment (`HEIMDALL_HTTP_PORT=8080`).

    Arguments that belong to the SDK alone are left to it.

    Raises:
        BadSettings: One message that lists everything that is wrong.
    """
    given = _given(argv, environ)
    values: dict[str, object] = {}
    problems: list[str] = []
    for name, text in given.items():
        try:
            values[name] = _PARSERS[_types()[name]](text)
        except ValueError as error:
            problems.append(f"--{name}: {error}")
    if "predictor_host" not in given:
        problems.append("--predictor_host: is missing")
    if problems:
        raise BadSettings("; ".join(problems))
    return Settings(**values)  # type: ignore[arg-type]  # each value was parsed by its field's type


def _given(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in _types():
        parser.add_argument(f"--{name}")
    known, _ = parser.parse_known_args(argv)
    from_environment = {
        name: environ[variable] for name in _types() if (variable := f"HEIMDALL_{name.upper()}") in environ
    }
    return from_environment | vars(known)


def _types() -> dict[str, str]:
    return {field.name: str(field.type) for field in fields(Settings)}


def _positive_int(text: str) -> int:
    if int(text) <= 0:
        raise ValueError(f"{text} is not positive")
    return int(text)


def _positive_float(text: str) -> float:
    if not 0.0 < float(text) < float("inf"):
        raise ValueError(f"{text} is not a positive number")
    return float(text)


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "bool": _parse_flag,
    "int": _positive_int,
    "float": _positive_float,
    "tuple[str, ...]": lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
