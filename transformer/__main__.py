"""`python -m transformer`: settings → model → server. What belongs here: putting the parts together and how it fails."""

import os
import sys

from kserve import model_server

from oip.asgi import OpenInferenceApplication
from oip.http import ASGIApp
from oip.kserve_server import Server
from transformer.errors import BadSettings
from transformer.model import LocalizationTransformer
from transformer.predictor_client import PredictorClient
from transformer.rest import RestApplication
from transformer.settings import Settings


def main() -> None:
    """Serve until a signal; settings that cannot be used end the process with one line."""
    try:
        settings = Settings.from_args(sys.argv[1:], os.environ, model_server.parser)
    except BadSettings as error:
        sys.exit(f"transformer: {error}")
    client = PredictorClient(
        settings.model_name,
        connect_timeout_s=settings.connect_timeout_s,
        metadata_timeout_s=settings.metadata_timeout_s,
    )
    model = LocalizationTransformer(settings, client)
    model.load()

    def front(sdk: ASGIApp) -> ASGIApp:
        protocol = OpenInferenceApplication(
            model,
            sdk,
            max_body_bytes=settings.max_body_bytes,
            default_timeout_s=settings.request_timeout_s,
            draining=lambda: server.draining,
        )
        return RestApplication(model, settings, protocol, draining=lambda: server.draining)

    server = Server(
        application=front,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        enable_grpc=settings.enable_grpc,
        drain_s=settings.drain_s,
    )
    server.start([model])


if __name__ == "__main__":
    main()
