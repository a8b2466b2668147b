"""What is put under load: the service on this machine, or one elsewhere that a URL names.

What belongs here: bringing it up, and captures that can be cached by it. What does not: the load.
"""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
from processes import Part, predictor_part, redis_part, running, transformer_part
from traffic import INFER, JSON_SIZE
from watch import Pods, Processes

from oip.codec import decode_response, encode_request
from oip.messages import InferRequest, Tensor
from reference.simulate import captures
from reference.variants import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watch import CpuMeter

CAPTURES, KEPT, SEED = 32, 8, 43
_CALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """A service that is ready.

    Attributes:
        name: For the report.
        url: Its base URL.
        host: The header `Host`; empty: as the URL says.
        meter: Knows its CPU time; None if nothing here does.
        parts: Its processes, if they are ours.
    """

    name: str
    url: str
    host: str = ""
    meter: CpuMeter | None = None
    parts: tuple[Part, ...] = ()


@contextmanager
def on_this_machine(folder: Path, models: Path, *transformer_options: str) -> Iterator[Target]:
    """Redis, one predictor and one transformer, with their defaults.

    Args:
        folder: For logs.
        models: Where the reference model is made once and kept.
        transformer_options: Added to the transformer's.
    """
    model = prepare(models)["reference"]
    redis = redis_part(folder, "--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru")
    predictor = predictor_part(folder, f"--model_dir={model}")
    cache = ("--redis_host=127.0.0.1", f"--redis_port={redis.port}")
    transformer = transformer_part(folder, predictor.address, *cache, *transformer_options)
    parts = (redis, predictor, transformer)
    with running(*parts):
        yield Target("one machine", f"http://{transformer.address}", "", Processes(parts), parts)


def elsewhere(url: str, host: str, namespace: str) -> Target:
    """A service that runs already; its pods' CPU time is read where a namespace is named."""
    return Target("cluster" if namespace else url, url, host, Pods(namespace) if namespace else None)


def save_captures(target: Target, path: Path) -> Path:
    """Simulated captures whose answers nothing is doubtful about, so that they are cached; returns the path."""
    iq = captures(SEED, CAPTURES).iq
    asked = InferRequest((Tensor("iq", iq),), parameters={"cache": False}, binary_output=True)
    encoded = encode_request(asked, binary=True)
    headers = {JSON_SIZE: str(encoded.json_size), **({"Host": target.host} if target.host else {})}
    request = urllib.request.Request(target.url + INFER, encoded.body, headers)
    with urllib.request.urlopen(request, timeout=_CALL_S) as answer:
        told = decode_response(answer.read(), int(answer.headers[JSON_SIZE]))
    doubts = orjson.loads(str(told.parameters.get("degraded", "null"))) or [()] * len(iq)
    sound = np.array([not reasons for reasons in doubts])
    np.save(path, iq[sound][:KEPT])
    return path
