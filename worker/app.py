"""The worker process: one engine behind one gRPC server."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog

from common.address import warn_of_exposure
from common.collector import settle
from common.grpc_server import UNLIMITED, add_health, add_reflection, bind, make_server
from common.guardian import Guardian
from common.held_port import HeldPort
from common.metrics_endpoint import serve_metrics
from common.server_tls import server_credentials
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from worker.config import WorkerSettings
from worker.engine import Engine
from worker.metrics import WorkerMetrics
from worker.schedulers import Schedulers
from worker.servicer import WorkerServicer

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SERVICE = "sluice.worker.v1.WorkerService"
DRAIN_POLL_S = 0.05
LAST_WORDS_S = 1.0

log = structlog.get_logger("worker")


class WorkerApp:
    """A running worker, as an asynchronous context manager.

    The ports are taken first, or somebody else may have them when the engine is ready; nobody is answered before that:
    whoever is answered can submit.

    Attributes:
        port: The port that the gRPC server listens on.
        died: Set to the reason when the engine can serve no more.

    """

    def __init__(self, settings: WorkerSettings, make: Callable[[WorkerSettings], Engine]) -> None:
        """Serve the engine that ``make`` makes of the settings, once the ports are taken: vLLM takes long to import."""
        self._settings = settings
        self._make = make
        self.port = 0
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        credentials = server_credentials(self._settings.tls)
        self._metrics = WorkerMetrics()
        listen, metrics_listen = self._settings.listen, self._settings.metrics_listen
        with ExitStack() as held:
            listen, *metrics = [held.enter_context(HeldPort(each)).address for each in (listen, metrics_listen) if each]
            self._engine = self._make(self._settings)
            description = await self._engine.start(on_load=self._on_load, on_death=self._on_death)
        # Only now: an engine may fork, which gRPC's threads and sockets are not made for.
        self._server = make_server(self._settings.server, receive_limit_bytes=UNLIMITED)
        self.port = bind(self._server, listen, credentials)
        self._endpoint = serve_metrics("".join(metrics), self._metrics.registry)
        worker_id = f"worker-{uuid.uuid4().hex[:8]}"
        schedulers = Schedulers(self._settings.scheduler_token_sha256, self._settings.scheduler_certificate)
        deployment = self._settings.deployment
        self._servicer = WorkerServicer(self._engine, description, worker_id, schedulers, deployment=deployment)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self._servicer, self._server)
        self._health = add_health(self._server, services := [SERVICE, *([deployment] if deployment else [])])
        if self._settings.server.reflection:
            add_reflection(self._server, [SERVICE])
        await self._server.start()
        self._health.set_ready(*services, ready=True)
        encrypted, has_token = credentials is not None, bool(self._settings.scheduler_token_sha256)
        authenticated = has_token or bool(self._settings.tls.client_ca)
        warn_of_exposure(log, self._settings.listen, encrypted=encrypted, authenticated=authenticated)
        log.info(
            "worker is ready",
            worker=worker_id,
            port=self.port,
            engine=description.name,
            model=description.model.name,
            context_tokens=description.model.context_tokens,
            kv_cache_tokens=description.capacity.kv_cache_tokens,
            max_sequences=description.capacity.max_sequences,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._health.shut_down()
        self._servicer.close()
        await self._server.stop(grace=LAST_WORDS_S)
        await self._engine.close()
        self._endpoint.close()

    async def drain(self) -> None:
        """Refuse new requests and wait until the running ones have ended, ``drain_s`` at most."""
        self._health.shut_down()
        self._servicer.drain()
        log.info("worker drains", running=self._servicer.requests)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                while self._servicer.requests:
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            log.warning("worker stops with requests running", running=self._servicer.requests)

    def _on_load(self, load: worker_pb2.Load) -> None:
        self._metrics.observe(load)
        self._servicer.tell(load)

    def _on_death(self, reason: str) -> None:
        if not self.died.done():
            self.died.set_result(reason)


def make_engine(settings: WorkerSettings) -> Engine:
    """Make the engine that the settings name; vLLM is imported only when it is the one."""
    if settings.engine == "simulated":
        from worker.simulated_engine import SimulatedEngine, options_from

        return SimulatedEngine(options_from(settings))
    from worker.vllm_engine import VllmEngine

    return VllmEngine(settings)


async def run(settings: WorkerSettings) -> int:
    """Serve until a signal or the engine's death; return the process's exit status."""
    with Guardian() as guardian:
        _end_at_signals(guardian)
        return await _serve(settings)


def _end_at_signals(guardian: Guardian) -> None:
    """Let signals end the process at once, and what it has started: an engine that starts blocks the event loop."""

    def end(number: int, _: object) -> None:
        guardian.end_all()
        sys.stderr.write(f"sluice-worker: {signal.Signals(number).name} while the engine started\n")
        sys.stderr.flush()
        os._exit(128 + number)  # nothing of what is interrupted may catch this

    for number in SIGNALS:
        signal.signal(number, end)


async def _serve(settings: WorkerSettings) -> int:
    stop = asyncio.Event()
    async with WorkerApp(settings, make_engine) as app:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, stop.set)
        app.died.add_done_callback(lambda _: stop.set())
        settle()
        await stop.wait()
        if app.died.done():
            log.error("worker stops", reason=app.died.result())
            return 1
        await app.drain()
    return 0
