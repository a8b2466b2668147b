"""The SDK's model server with this service's ASGI application in front, on uvloop, and with an end that loses nothing.

What belongs here: the process: event loop, sockets, signals. What does not: requests (`asgi`) and models.

How it ends (SIGTERM, SIGINT or SIGQUIT):

    signal ──▶ draining: readiness is denied, answers say `Connection: close`, everything is still served
           ──▶ `drain_s` later the listeners close (`listener`); requests in flight finish, within the grace period
           ──▶ models are unloaded, the process ends with exit code 0
    a second signal at any time ends the waiting

The SDK would unload the models at once, so that requests still in flight over gRPC find none; and with one worker
it runs asyncio's own loop whatever `--event-loop` says. Hence `start` is written anew from the SDK's own parts.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]  # ships no types
import uvicorn
import uvloop

from oip import tracing
from oip.allocator import give_back_regularly, keep_freed_memory, settle
from oip.body_budget import MAX_BODIES_BYTES, BudgetedApplication
from oip.deferred_imports import deferring
from oip.errors import NotImplementedHere, OipError
from oip.grpc_budget import MAX_RPCS, BudgetedMessages
from oip.json_log import configure_logging
from oip.listener import Listener
from oip.process_age import process_age_s
from oip.read_buffer import ReadBuffer
from oip.traced_application import traced

# The first import of the SDK in the process: a component imports this module before any other that needs the SDK.
with deferring("pandas", "kserve.api.kserve_client", "kserve.api_client", "kserve.configuration", "kserve.models"):
    import kserve
    from kserve import model_server
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor, LoggingInterceptor
    from kserve.protocol.grpc.server import GRPCServer
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer, _RefreshingServer
    from kserve.utils import utils
    from kserve.utils.inference_client_factory import InferenceClientFactory

    from oip.kserve_messages import grpc_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from oip.http import ASGIApp
    from oip.repository import Repository

DRAIN_S = 3.0
"""Kubernetes removes an endpoint while it already sends SIGTERM; for about this long requests still arrive."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

logger = logging.getLogger(__name__)


class Server(kserve.ModelServer):
    """A `kserve.ModelServer` whose HTTP data path is ours.

    Readiness during the drain belongs to the application, which can ask `draining`:

        server = Server(
            application=lambda sdk: OpenInferenceApplication(backend, sdk, draining=lambda: server.draining)
        )

    Args:
        application: Makes the ASGI application from the SDK's own, which it should fall back to.
        drain_s: How long requests are still accepted after the first signal, in seconds.
        max_bodies_bytes: Largest bodies of all requests together, messages of gRPC included; beyond them 503 or
            UNAVAILABLE.
        repository: Loads and unloads for gRPC clients; without it nobody outside does.
        background: Runs beside the server until its end.
        enable_latency_logging: The SDK's log line for every request; off here.
        options: All other arguments of `kserve.ModelServer`. Of `workers`, more than one is ignored: KServe adds
            `--workers <containerConcurrency>` by itself, and the SDK's workers lose its predictor configuration.
    """

    def __init__(
        self,
        *,
        application: Callable[[ASGIApp], ASGIApp],
        drain_s: float = DRAIN_S,
        max_bodies_bytes: int = MAX_BODIES_BYTES,
        repository: Repository | None = None,
        background: Callable[[], Coroutine[None, None, None]] | None = None,
        enable_latency_logging: bool = False,
        **options: Any,  # noqa: ANN401 - the SDK's own
    ) -> None:
        configure_logging()
        keep_freed_memory()
        super().__init__(enable_latency_logging=enable_latency_logging, **options)
        self.model_repository_extension = _GuardedRepository(self.registered_models, repository)
        self._application = application
        self._drain_s = drain_s
        self._max_bodies_bytes = max_bodies_bytes
        self._bodies: BudgetedApplication
        self._background = background
        self._draining = False
        self._listener: _Listener
        self._end: asyncio.Task[None] | None = None
        self._abort: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether a signal has announced the end."""
        return self._draining

    def start(self, models: Sequence[kserve.BaseKServeModel]) -> None:
        """Serve until a signal ends it.

        Args:
            models: To be registered; at least one is ready.

        Raises:
            kserve.errors.NoModelReady: None is ready.
            SystemExit: The HTTP port cannot be bound.
        """
        self._register_and_check_atleast_one_model_is_ready(list(models))
        if self.workers > 1:
            logger.warning("--workers %d is ignored: one process in a pod, more pods instead", self.workers)
        self._rest_server = self._rest()
        self.servers.append(self._rest_server.start())
        if self.enable_grpc:
            self._grpc_server = self._grpc()
            self.servers.append(self._grpc_server.start(self.max_threads))
        settle()
        logger.info("serving, %.2f s after the process started", process_age_s())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())
        tracing.close()

    def stop(self, sig: int) -> None:
        """Begin the end; called a second time, stop waiting."""
        if self._end is None:
            logger.info("signal %d: draining for %g s", sig, self._drain_s)
            self._draining = True
            self._refuse_keep_alive()
            self._end = asyncio.get_running_loop().create_task(self._wind_up(sig))
        else:
            logger.warning("signal %d again: not waiting any longer", sig)
            self._abort = asyncio.get_running_loop().create_task(self._give_up())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._custom_exception_handler or self.default_exception_handler)
        threads = self.max_asyncio_workers or min(32, utils.cpu_count() + 4)  # the SDK's own rule
        loop.set_default_executor(ThreadPoolExecutor(threads))
        for sig in _SIGNALS:
            loop.add_signal_handler(sig, self.stop, sig)
        background = loop.create_task(self._background()) if self._background else None
        if background is not None:
            background.add_done_callback(_tell_end)
        giving_back = loop.create_task(give_back_regularly())
        try:
            await asyncio.gather(*self.servers)
        finally:
            giving_back.cancel()
            if background is not None:
                background.cancel()
            if self._end is not None:
                self._end.cancel()
            await InferenceClientFactory().close()
            for name in list(self.registered_models.get_models()):
                self.registered_models.unload(name)

    async def _wind_up(self, sig: int) -> None:
        """Close the listeners after the drain; the servers' own tasks end once nothing is in flight."""
        await asyncio.sleep(self._drain_s)
        self._listener.should_exit = True
        if self._grpc_server is not None:
            await self._grpc_server.stop(sig)

    async def _give_up(self) -> None:
        self._listener.force_exit = self._listener.should_exit = True
        if self._grpc_server is not None:
            await self._grpc_server._server.stop(grace=None)  # noqa: SLF001 - the SDK's own stop always waits

    def _refuse_keep_alive(self) -> None:
        """From now on every answer carries `Connection: close`, so that clients go elsewhere by themselves."""
        config = self._listener.config
        config.encoded_headers = [*config.encoded_headers, (b"connection", b"close")]
        self._listener.server_state.default_headers = config.encoded_headers

    def _rest(self) -> RESTServer:
        server = RESTServer(
            model_server.FASTAPI_APP_IMPORT_STRING,
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            access_log_format=self.access_log_format,
        )
        self._bodies = BudgetedApplication(self._application(model_server.app), self._max_bodies_bytes)
        server.config = uvicorn.Config(
            traced(self._bodies),
            host=server.config.host,
            port=self.http_port,
            http=ReadBuffer().connection,  # type: ignore[arg-type]  # it asks for a class, but only calls it
            ws="none",
            log_config=None,  # kserve has configured the loggers
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nobody here asks for the client's address
            timeout_graceful_shutdown=self.grace_period,
            timeout_keep_alive=self.timeout_keep_alive,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )
        server._server = self._listener = _Listener(server.config)  # noqa: SLF001 - the SDK has no parameter for it
        return server

    def _grpc(self) -> GRPCServer:
        return _GrpcServer(
            self.grpc_port,
            self.dataplane,
            self.model_repository_extension,
            kwargs=vars(model_server.args),
            grace_period=self.grace_period,
            bodies=self._bodies,
        )


def _tell_end(background: asyncio.Task[None]) -> None:
    """What runs beside the server for ever has ended by itself: nobody waits for it, so the log has to say it."""
    if not background.cancelled():
        logger.error("what runs beside the server has ended", exc_info=background.exception())


class _GrpcServer(GRPCServer):
    """The SDK's gRPC server with limits, for which it has no parameters: of calls at once, and of their bytes."""

    def __init__(self, *args: Any, bodies: BudgetedApplication, **options: Any) -> None:  # noqa: ANN401 - the SDK's own
        super().__init__(*args, **options)
        self._bodies = bodies

    async def start(self, max_workers: int) -> None:
        """Serve until `stop`; the SDK's own, with an interceptor in front of its two and a limit of calls."""
        limits = ("grpc_max_send_message_length", "grpc_max_receive_message_length")
        server = self._server = grpc.aio.server(
            ThreadPoolExecutor(max_workers),
            interceptors=(BudgetedMessages(self._bodies), LoggingInterceptor(), ExceptionToStatusInterceptor()),
            options=[(name.replace("_", ".", 1), self._kwargs.get(name)) for name in limits],
            maximum_concurrent_rpcs=MAX_RPCS,
        )
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        add_GRPCInferenceServiceServicer_to_server(servicer, server)
        server.add_insecure_port(f"[::]:{self._port}")
        await server.start()
        await server.wait_for_termination()


class _GuardedRepository(ModelRepositoryExtension):
    """The SDK lets any gRPC client load and unload; here only what the component offers happens."""

    def __init__(self, models: kserve.ModelRepository, repository: Repository | None) -> None:
        super().__init__(models)
        self._repository = repository

    async def load(self, model_name: str) -> dict[str, object]:
        """What the SDK's gRPC route answers with."""
        await self._call("load", model_name)
        return {"name": model_name, "load": True}

    async def unload(self, model_name: str) -> dict[str, object]:
        """What the SDK's gRPC route answers with."""
        await self._call("unload", model_name)
        return {"name": model_name, "unload": True}

    async def _call(self, what: str, model_name: str) -> None:
        try:
            if self._repository is None:
                raise NotImplementedHere("this server does not offer the model repository extension")
            if what == "load":
                await self._repository.load(model_name, {})
            else:
                await self._repository.unload(model_name)
        except OipError as error:
            raise grpc_error(error) from error


class _Listener(Listener, _RefreshingServer):
    """Ours in front of the SDK's, which reads renewed certificates."""
