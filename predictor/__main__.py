"""`python -m predictor`: settings → model → server. What belongs here: putting the parts together, and how it fails."""

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

from prometheus_client import REGISTRY

from oip import tracing
from oip.asgi import OpenInferenceApplication
from oip.extensions import Extensions
from oip.json_log import configure_logging
from oip.kserve_server import Server
from oip.process_age import process_age_s
from predictor.errors import PredictorError
from predictor.following import follow, look
from predictor.model import OnnxModel
from predictor.repository import CatalogRepository
from predictor.settings import Settings

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes makes this file and shows its content as the reason of a container's end."""

logger = logging.getLogger("predictor")


def main() -> None:
    """Serve until a signal; a model or a setting that cannot be served ends the process with one line."""
    from kserve import model_server  # noqa: PLC0415 - kserve_server imports the SDK first, without its heavy half

    try:
        settings = Settings.from_args(sys.argv[1:], os.environ, model_server.parser)
        configure_logging(settings.log_level)
        logger.info("imported, %.2f s after the process started", process_age_s())
        seen = look(settings) if settings.follow_s else None
        model = OnnxModel(settings)
        model.load()
    except PredictorError as error:
        if os.access(TERMINATION_LOG, os.W_OK):
            TERMINATION_LOG.write_text(str(error), encoding="utf-8")
        sys.exit(f"predictor: {error}")
    backend = model.backend
    REGISTRY.register(backend.metrics)
    repository = CatalogRepository(settings.model_name, backend.catalog, writable=settings.repository_api)
    changing = settings.repository_api or settings.follow_s or settings.also_versions
    front = partial(
        OpenInferenceApplication,
        backend,
        max_body_bytes=settings.max_body_bytes,
        default_timeout_s=settings.request_timeout_s,
        observer=backend.observe,
        draining=lambda: server.draining,
        extensions=Extensions(backend.statistics, repository if changing else None),
    )
    server: Server = Server(
        application=front,
        repository=repository,
        max_bodies_bytes=settings.max_bodies_bytes,
        background=partial(follow, backend.catalog, settings, seen) if settings.follow_s else None,
        **{name: getattr(settings, name) for name in ("http_port", "grpc_port", "enable_grpc", "drain_s")},
    )
    tracing.configure("heimdall-predictor", os.environ)
    server.start([model])
    if runs := backend.unfinished_runs:
        _abandon(runs)


def _abandon(runs: int) -> NoReturn:
    """End the process although the model still runs; listeners are closed and spans are sent.

    The usual end would be SIGABRT: Python unwinds a thread that comes back to it during finalization, through frames
    of ONNX Runtime that do not allow it, and C++ then aborts. `RunOptions.terminate` is no way out: it is read between
    the nodes of a graph only, and one node may take long.
    """
    logger.warning("abandoned at the end: runs of the model that nobody waits for and that still go on: %d", runs)
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
