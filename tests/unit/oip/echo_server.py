"""A real server for the tests of `oip.kserve_server`: an echo model over HTTP and gRPC, as its own process."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

import kserve

from oip.asgi import OpenInferenceApplication
from oip.body_budget import MAX_BODIES_BYTES
from oip.kserve_server import Server
from oip.messages import InferResponse, ModelMetadata, ServerMetadata, Tensor

if TYPE_CHECKING:
    from oip.messages import CallContext, InferRequest


class Echo(kserve.Model):
    """Answers with its inputs, after the parameter `seconds`.

    Attributes:
        in_flight: How many requests it is answering; the server's version ends with it.
    """

    def __init__(self) -> None:
        super().__init__("echo")
        self.ready = True
        self.in_flight = 0

    async def predict(self, payload: kserve.InferRequest, *_args: object, **_options: object) -> kserve.InferResponse:
        """The SDK's way in: gRPC."""
        await self._take(float(payload.parameters["seconds"].string_param))
        output = kserve.InferOutput("x", payload.inputs[0].shape, "FP32")
        output.set_data_from_numpy(payload.inputs[0].as_numpy(), binary_data=True)
        return kserve.InferResponse(payload.id, "echo", [output])

    def server_metadata(self) -> ServerMetadata:
        """A fixed name; as version the event loop that is used, and how much is in flight."""
        return ServerMetadata("echo", f"{type(asyncio.get_running_loop()).__module__} {self.in_flight}")

    async def server_ready(self) -> bool:
        """Always."""
        return True

    async def model_ready(self, _model_name: str, _version: str | None) -> bool:
        """Always."""
        return True

    async def model_metadata(self, model_name: str, _version: str | None) -> ModelMetadata:
        """No tensors."""
        return ModelMetadata(model_name, "echo", (), ())

    async def infer(
        self, model_name: str, _version: str | None, request: InferRequest, _context: CallContext
    ) -> InferResponse:
        """Our way in: HTTP."""
        await self._take(float(request.parameters.get("seconds", 0)))
        outputs = tuple(Tensor(tensor.name, tensor.array) for tensor in request.inputs)
        return InferResponse(model_name, outputs, "1", request.id)

    async def _take(self, seconds: float) -> None:
        self.in_flight += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1


async def _break() -> None:
    raise RuntimeError("something beside broke")


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--drain_s", type=float, default=0.5)
    parser.add_argument("--max_bodies_bytes", type=int, default=MAX_BODIES_BYTES)
    parser.add_argument("--broken_background", action="store_true")
    options = parser.parse_args()
    model = Echo()

    def application(sdk: Any) -> OpenInferenceApplication:  # noqa: ANN401 - an ASGI application
        return OpenInferenceApplication(model, sdk, draining=lambda: server.draining)

    server = Server(
        application=application,
        drain_s=options.drain_s,
        max_bodies_bytes=options.max_bodies_bytes,
        background=_break if options.broken_background else None,
    )
    server.start([model])


if __name__ == "__main__":
    main()
