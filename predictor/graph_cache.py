"""Optimised graphs on disk, so that the same model is optimised once and not at every start.

What belongs here: the key, and reading and writing that never stands in the way: whatever goes wrong, the model is
loaded from its own file and the log says why. What does not: what the session is used for (`session`).

ONNX Runtime writes the graph as it is after all optimisations, some of which depend on the processor
(`onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html`, "Offline"), so its instruction sets
belong to the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class GraphCache:
    """A folder of optimised graphs.

    Args:
        folder: Is made if it is missing. Whoever may write to it decides what this process computes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(
        self,
        path: Path,
        options: Callable[[], ort.SessionOptions],
        providers: Sequence[str],
        *,
        digest: str,
    ) -> ort.InferenceSession:
        """The session of a model, from its optimised graph if there is one; else it is written.

        Args:
            path: The model's file.
            options: Makes the session's options, afresh for each attempt.
            providers: Execution providers.
            digest: What stands for the model's content.

        Raises:
            Exception: What onnxruntime raises for the model's own file.
        """
        made = options()
        cached = self._folder / f"{_key(digest, made, providers)}.onnx"
        if cached.is_file():
            made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                return ort.InferenceSession(cached, made, providers=list(providers))
            except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common root
                logger.warning("the optimised graph %s cannot be used: %s", cached.name, error)
        return self._optimise(path, cached, options, providers)

    def _optimise(
        self, path: Path, cached: Path, options: Callable[[], ort.SessionOptions], providers: Sequence[str]
    ) -> ort.InferenceSession:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        except OSError as error:
            logger.warning("no optimised graph is kept: %s", error)
            return ort.InferenceSession(path, options(), providers=list(providers))
        os.close(handle)
        made = options()
        made.optimized_model_filepath = name
        try:
            session = ort.InferenceSession(path, made, providers=list(providers))
            Path(name).replace(cached)
        except Exception as error:  # noqa: BLE001 - disk full, a model over 2 GiB, or the model itself, told below
            logger.warning("no optimised graph is kept: %s", error)
            return ort.InferenceSession(path, options(), providers=list(providers))
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
        return session


def _key(digest: str, options: ort.SessionOptions, providers: Sequence[str]) -> str:
    parts = (digest, ort.__version__, str(options.intra_op_num_threads), *providers, platform.machine(), _processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _processor() -> str:
    """The processor's instruction sets, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
