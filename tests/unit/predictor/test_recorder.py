from __future__ import annotations

import time

import pytest

from oip.statistics import Total
from predictor.metrics import PredictorMetrics
from predictor.recorder import SECONDS, Distribution, Recorder
from predictor.work import Execution


def test_distributions() -> None:
    """A value belongs to the first bucket whose bound it does not exceed, as Prometheus defines `le`."""
    one = Distribution((1, 2))
    for value in (0.5, 1, 1.5, 2, 2.5):
        one.add(value)
    assert (one.counts, one.total, one.count) == ([2, 2, 1], 7.5, 5)


def test_buckets() -> None:
    """They resolve 1 ms and have an edge at the objective of 500 ms."""
    assert {0.001, 0.002, 0.003, 0.5} <= set(SECONDS)
    assert list(SECONDS) == sorted(SECONDS)


def test_statistics() -> None:
    """Triton's sums: requests and their time by outcome, items and runs, and the parts of a run by batch size."""
    recorder = Recorder()
    recorder.answered(200, 0.5)
    recorder.answered(200, 0.25)
    recorder.answered(503, 0.125)
    recorder.waited(0.125)
    for rows in (4, 1, 4):
        recorder.executed(Execution(rows, 1.0, 1.25, 2.25, 2.375))
    told = recorder.statistics("m", "3")
    assert (told.name, told.version, told.inference_count, told.execution_count) == ("m", "3", 9, 3)
    assert (told.success, told.fail) == (Total(2, 750_000_000), Total(1, 125_000_000))
    assert told.queue == Total(1, 125_000_000)
    assert [(one.batch_size, one.compute_infer) for one in told.batches] == [
        (1, Total(1, 1_000_000_000)),
        (4, Total(2, 2_000_000_000)),
    ]
    assert told.batches[1].compute_input == Total(2, 500_000_000)
    assert told.batches[1].compute_output == Total(2, 250_000_000)
    assert told.last_inference_ms == pytest.approx(time.time() * 1000, abs=60_000)


def test_ended_versions_do_not_pile_up() -> None:
    """After a thousand reloads the last few versions are shown, and the current one; unknown names stay apart."""
    metrics = PredictorMetrics("m")
    metrics.unattributed().answered(404, 0.1)
    for version in map(str, range(1000)):
        metrics.serves(version, Recorder(), {})
        if version != "0":
            metrics.ended(str(int(version) - 1))
    shown = {
        sample.labels["version"]
        for family in metrics.collect()
        for sample in family.samples
        if "version" in sample.labels
    }
    assert shown == {"", *map(str, range(991, 1000))}
