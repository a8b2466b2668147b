"""Answers to captures, from the model in this process.

What belongs here: the type of an answer, and ONNX Runtime without servers. What does not: the network (`client`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnxruntime

from reference.calibrate import EllipseScale, scale_at
from reference.contract import FEATURE_MEAN, FEATURE_STD, METADATA_KEY
from reference.export import INPUT
from reference.features import log_mel
from reference.metrics import covariances, ellipses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reference.arrays import C64, F32, F64
    from reference.simulate import Captures

LEVELS = (0.5, 0.68, 0.9, 0.95, 0.99)
"""Confidence levels at which ellipses are judged."""


class Features(Protocol):
    """From samples [K,R,N] to the model's input [K,R,T,F]."""

    def __call__(self, iq: C64) -> F32:
        """The features of all receivers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What was answered to K captures.

    Attributes:
        position_deg: [K,2] latitude, longitude.
        covariance_m2: [K,2,2] east, north.
        confidence: [K].
        ellipses: Per confidence level [K,3]: semi-major m, semi-minor m, bearing in degrees clockwise from north.
    """

    position_deg: F64
    covariance_m2: F64
    confidence: F64
    ellipses: Mapping[float, F64]


def concatenated(parts: Sequence[Estimates]) -> Estimates:
    """Several sets of answers as one."""
    return Estimates(
        np.concatenate([part.position_deg for part in parts]),
        np.concatenate([part.covariance_m2 for part in parts]),
        np.concatenate([part.confidence for part in parts]),
        {level: np.concatenate([part.ellipses[level] for part in parts]) for level in parts[0].ellipses},
    )


def standard_features(iq: C64) -> F32:
    """The features that the contract describes."""
    return log_mel(iq, FEATURE_MEAN, FEATURE_STD)


class LocalModel:
    """The model run by ONNX Runtime in this process, on one thread."""

    def __init__(self, path: Path, features: Features = standard_features) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._features = features
        contract = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        self._table = tuple(EllipseScale(**row) for row in contract["ellipse_scale"])

    def estimate(self, captures: Captures) -> Estimates:
        """Answer a block of captures."""
        inputs = {INPUT: self._features(captures.complex_iq())}
        position, uncertainty, confidence = self._session.run(["position", "uncertainty", "confidence"], inputs)
        covariance = covariances(np.asarray(uncertainty, dtype=np.float64))
        return Estimates(
            np.asarray(position, dtype=np.float64),
            covariance,
            np.asarray(confidence, dtype=np.float64)[:, 0],
            {level: ellipses(covariance, scale_at(self._table, level)) for level in LEVELS},
        )
