"""Requests and answers of the REST API as they look, for its OpenAPI document.

What belongs here: values, shortened where the real ones fill pages. What does not: schemas (`rest_openapi`).
"""

from __future__ import annotations

from typing import Any

Example = dict[str, Any]

PREDICT: Example = {
    "iq_data": [[[0.0123, -0.0045], [0.0118, -0.0061]], [[0.0007, 0.0002], [-0.0004, 0.0009]]],
    "session_id": "flight-7",
    "confidence_level": 0.9,
}
"""Two receivers and two samples, to be readable. The reference model wants seven and 4480."""

PREDICTION: Example = {
    "position": {"latitude": 44.9133, "longitude": 8.2067},
    "uncertainty": {"sigma_x": 21034.1, "sigma_y": 14206.7, "theta": 127.4, "confidence_interval": 0.9},
    "ellipse": {
        "center": [44.9133, 8.2067],
        "semi_major_axis_m": 46331.2,
        "semi_minor_axis_m": 31292.9,
        "rotation_degrees": 127.4,
        "bearing_degrees": 142.6,
        "confidence_level": 0.9,
    },
    "confidence": 0.47,
    "model_version": "1",
    "model_digest": "sha256:0f0e…",
    "contract_digest": "sha256:77aa…",
    "arm": "stable",
    "degraded": [],
    "inference_time_ms": 2.1,
    "timestamp": "2026-01-31T12:00:00.000000Z",
    "session_id": "flight-7",
    "_cache_hit": False,
}
BATCH_REQUEST: Example = {"predictions": [PREDICT, PREDICT | {"session_id": "flight-8"}]}
BATCH: Example = {
    "predictions": [PREDICTION, PREDICTION | {"session_id": "flight-8"}],
    "batch_id": "5d0c5b1e6f6c4a0e9a0d5b1c2d3e4f50",
    "batch_size": 2,
    "total_time_ms": 4.2,
}
HEALTH: Example = {"status": "healthy", "ready": True}
UNHEALTHY: Example = {"status": "unhealthy", "ready": False}
MODEL_INFO: Example = {
    "model_name": "localization",
    "active_version": "1",
    "alias": ["champion"],
    "arms": [{"name": "stable", "percent": 100, "revision": ""}],
    "requests_total": 12,
    "errors_total": 0,
    "cache_hit_rate": 0.25,
    "latency_ms": {"p50": 2.1, "p95": 3.4, "p99": 5.0},
    "model_digest": "sha256:0f0e…",
    "contract_digest": "sha256:77aa…",
    "confidence_meaning": "P(error < 20 km)",
    "receivers": [{"name": "Torino", "latitude": 45.044, "longitude": 7.672, "altitude_m": 250.0}],
    "sample_rate_hz": 48000.0,
    "samples": 4480,
    "full_scale_dbm": -50.0,
    "uptime_s": 3600.0,
}
