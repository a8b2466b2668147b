"""What has been measured of a model, as Triton's statistics extension tells it (`extension_statistics.md`).

What belongs here: the figures as values, and their JSON. What does not: measuring them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Total:
    """How often something happened, and how long it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The executions of one batch size: gathering the inputs, running the model, handing out the outputs."""

    batch_size: int
    compute_input: Total
    compute_infer: Total
    compute_output: Total


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """The figures of one version of a model since it was loaded.

    Attributes:
        name: The model's name.
        version: The version.
        last_inference_ms: When the last request was answered, milliseconds since 1970; 0 if none was.
        inference_count: Items inferred; a request with a batch of n counts n times.
        execution_count: Runs of the model; smaller than the number of requests where they are batched.
        success: Requests answered, from their arrival to their answer.
        fail: Requests that were refused or failed.
        queue: Waiting, of the requests answered.
        batches: The executions by batch size; the `compute_…` totals are their sums.
    """

    name: str
    version: str
    last_inference_ms: int
    inference_count: int
    execution_count: int
    success: Total
    fail: Total
    queue: Total
    batches: tuple[BatchStatistics, ...] = ()


_COMPUTE = ("compute_input", "compute_infer", "compute_output")


def encode_statistics(models: Sequence[ModelStatistics]) -> bytes:
    """The answer to `GET /v2/models/…/stats`."""
    return orjson.dumps({"model_stats": [_members(one) for one in models]})


def _members(one: ModelStatistics) -> dict[str, Any]:
    compute = {part: _sum([getattr(batch, part) for batch in one.batches]) for part in _COMPUTE}
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            "success": _total(one.success),
            "fail": _total(one.fail),
            "queue": _total(one.queue),
            **compute,
            "cache_hit": _total(Total()),  # this server has no response cache
            "cache_miss": _total(Total()),
        },
        "batch_stats": [
            {"batch_size": batch.batch_size, **{part: _total(getattr(batch, part)) for part in _COMPUTE}}
            for batch in one.batches
        ],
    }


def _sum(totals: Sequence[Total]) -> dict[str, int]:
    return {"count": sum(one.count for one in totals), "ns": sum(one.ns for one in totals)}


def _total(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}
