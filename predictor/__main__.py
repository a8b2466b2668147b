"""`python -m predictor`: settings → model → server. What belongs here: putting the parts together, and how it fails."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from kserve import model_server

from oip.asgi import OpenInferenceApplication
from oip.kserve_server import Server
from predictor.errors import PredictorError
from predictor.model import OnnxModel
from predictor.settings import Settings

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes makes this file and shows its content as the reason of a container's end."""


def main() -> None:
    """Serve until a signal; a model or a setting that cannot be served ends the process with one line."""
    try:
        settings = Settings.from_args(sys.argv[1:], os.environ, model_server.parser)
        model = OnnxModel(settings)
        model.load()
    except PredictorError as error:
        if os.access(TERMINATION_LOG, os.W_OK):
            TERMINATION_LOG.write_text(str(error), encoding="utf-8")
        sys.exit(f"predictor: {error}")
    caps: dict[str, Any] = {"max_body_bytes": settings.max_body_bytes, "default_timeout_s": settings.request_timeout_s}
    ports = {name: getattr(settings, name) for name in ("http_port", "grpc_port", "enable_grpc", "drain_s")}
    front = partial(OpenInferenceApplication, model, draining=lambda: server.draining, **caps)
    server: Server = Server(application=front, **ports)
    server.start([model])


if __name__ == "__main__":
    main()
