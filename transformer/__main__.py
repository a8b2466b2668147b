"""`python -m transformer`: settings → model → server. What belongs here: how the parts are put together."""

import os
import sys

from oip import tracing
from oip.asgi import OpenInferenceApplication
from oip.http import ASGIApp
from oip.json_log import configure_logging
from oip.kserve_server import Server
from transformer.assembly import Assembly
from transformer.errors import BadSettings
from transformer.rest import RestApplication
from transformer.settings import Settings


def main() -> None:
    """Serve until a signal; settings that cannot be used end the process with one line."""
    from kserve import model_server  # noqa: PLC0415 - kserve_server imports the SDK first, without its heavy half

    try:
        settings = Settings.from_args(sys.argv[1:], os.environ, model_server.parser)
        configure_logging(settings.log_level)
        assembly = Assembly(settings, os.environ)
    except BadSettings as error:
        sys.exit(f"transformer: {error}")
    model = assembly.model
    model.load()

    def front(sdk: ASGIApp) -> ASGIApp:
        protocol = OpenInferenceApplication(
            model,
            sdk,
            max_body_bytes=settings.max_body_bytes,
            max_json_bytes=settings.max_json_bytes,
            default_timeout_s=settings.request_timeout_s,
            observer=model.observed.request,
            draining=lambda: server.draining,
        )
        return RestApplication(model, settings, assembly.aliases, protocol, draining=lambda: server.draining)

    server = Server(
        application=front,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        enable_grpc=settings.enable_grpc,
        drain_s=settings.drain_s,
        max_bodies_bytes=settings.max_bodies_bytes,
        background=assembly.run,
    )
    tracing.configure("heimdall-transformer", os.environ)
    server.start([model])


if __name__ == "__main__":
    main()
