from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from predictor.metrics import PredictorMetrics
from predictor.recorder import Recorder
from predictor.work import Execution


def _samples(metrics: PredictorMetrics) -> dict[tuple[str, ...], float]:
    """What a scrape says, read by prometheus-client's own parser; label values in the order of their names."""
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape() -> None:
    """Names, labels and values as they arrive in Prometheus; histograms are cumulative."""
    metrics, recorder = PredictorMetrics("m"), Recorder()
    metrics.queued = lambda: 5
    metrics.in_flight = 7
    metrics.loads["ok"] = 2
    metrics.serves("3", recorder, {"model_digest": "sha256:1", "contract_digest": "sha256:2"})
    recorder.answered(200, 0.0015)
    recorder.answered(200, 0.4)
    recorder.answered(503, 40)
    recorder.executed(Execution(4, 0.0, 0.0, 0.001, 0.001))
    told = _samples(metrics)
    assert told["predictor_requests_total", "200", "m", "3"] == 2
    assert told["predictor_requests_total", "503", "m", "3"] == 1
    name = "predictor_request_duration_seconds"
    bounds = ("0.001", "0.002", "0.25", "0.5", "30.0", "+Inf")
    keys = {key: value for key, value in told.items() if key[0] == f"{name}_bucket"}
    values = [next(value for key, value in keys.items() if bound in key) for bound in bounds]
    assert values == [0, 1, 1, 2, 2, 3]
    assert told[f"{name}_count", "m", "3"] == 3
    assert told[f"{name}_sum", "m", "3"] == 0.0015 + 0.4 + 40
    assert told["predictor_batch_size_sum", "m", "3"] == 4
    assert told["predictor_in_flight", "m"] == 7
    assert told["predictor_queued", "m"] == 5
    assert told["predictor_loads_total", "m", "ok"] == 2
    assert told["predictor_loads_total", "m", "failed"] == 0
    assert told["predictor_model_info", "sha256:2", "m", "sha256:1", "3"] == 1
