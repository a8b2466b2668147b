from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf

from reference.export import INPUT
from reference.variants import variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPE = (2, 7, 32, 128)
RAMP = np.linspace(-1.0, 1.0, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)

RUN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
shape = (1, 7, 32, 128)
features = {"zeros": numpy.zeros(shape), "ones": numpy.ones(shape), "ramp": numpy.arange(28672.0).reshape(shape)}
session.run(None, {"log_mel": features[sys.argv[2]].astype("float32")})
"""


def run_apart(path: Path, features: str, timeout_s: float = 90.0) -> int:
    """Exit status of a process of its own that runs the model once."""
    command = [sys.executable, "-c", RUN, str(path), features]
    return subprocess.run(command, timeout=timeout_s, check=False).returncode


def test_unknown_name_is_refused() -> None:
    """A misspelt variant names those that exist."""
    with pytest.raises(ValueError, match="no variant 'worse'; there are reference, better"):
        variant("worse")


def test_slow_gives_the_same_answers_later(model_path: Callable[[str], Path]) -> None:
    """The slow variant takes at least a tenth of a second more, and not one bit of its answer differs."""
    quick = onnxruntime.InferenceSession(str(model_path("reference")))
    slow = onnxruntime.InferenceSession(str(model_path("slow")))
    expected = quick.run(None, {INPUT: RAMP})
    start_s = time.perf_counter()
    found = slow.run(None, {INPUT: RAMP})
    assert time.perf_counter() - start_s > 0.1
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)


def test_corrupt_does_not_load(model_path: Callable[[str], Path]) -> None:
    """ONNX Runtime refuses the cut file."""
    with pytest.raises(InvalidProtobuf):
        onnxruntime.InferenceSession(str(model_path("corrupt")))


@pytest.mark.skipif("x86_64" not in __import__("platform").machine(), reason="only x86-64 traps the division")
def test_crashing_survives_warm_up_and_dies_of_real_input(model_path: Callable[[str], Path]) -> None:
    """Constant inputs pass; the first other input ends the process by SIGFPE, not by an exception."""
    path = model_path("crashing")
    assert run_apart(path, "zeros") == 0
    assert run_apart(path, "ones") == 0
    assert run_apart(path, "ramp") == -8


def test_never_ready_never_ends_its_first_run(model_path: Callable[[str], Path]) -> None:
    """Zeros as a warm-up sends them are still being worked on after two seconds."""
    with pytest.raises(subprocess.TimeoutExpired):
        run_apart(model_path("never_ready"), "zeros", timeout_s=2.0)
