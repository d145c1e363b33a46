"""The scheduler process: the public API in front of the workers."""

import asyncio
import os
import signal
import sys
from types import TracebackType
from typing import NoReturn, Self

import structlog

from common.address import warn_of_exposure
from common.collector import settle
from common.grpc_server import add_health, add_reflection, bind, make_server
from common.metrics_endpoint import serve_metrics
from common.server_tls import server_credentials
from scheduler.admin import AdminServicer
from scheduler.admin_server import AdminServer
from scheduler.answering import Answering
from scheduler.authentication import Authentication
from scheduler.circuit import Circuits
from scheduler.config import SchedulerSettings
from scheduler.core.policy import make_policy
from scheduler.core.quota import Quotas
from scheduler.core.scheduler import Scheduler
from scheduler.dispatcher import Dispatcher
from scheduler.errors import Draining
from scheduler.limits import Limits
from scheduler.metrics import SchedulerMetrics
from scheduler.open_sessions import OpenSessions
from scheduler.service_classes import ServiceClasses
from scheduler.servicer import InferenceServicer
from scheduler.tenant_limits import TenantLimits
from scheduler.worker_dialer import WorkerDialer
from scheduler.worker_pool import WorkerPool
from sluice.v1 import inference_pb2_grpc

SERVICE = "sluice.v1.InferenceService"
DRAIN_POLL_S = 0.05
STATUS_GRACE_S = 1.0

log = structlog.get_logger("scheduler")


class SchedulerApp:
    """A running scheduler, as an asynchronous context manager.

    Attributes:
        port: The port that the public API listens on.
        admin: The admin API.
        dispatcher: Its requests and workers.
        circuits: The circuit breaker of each address where a worker may be.
        is_draining: Whether it takes no new requests.

    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        core = make_core(settings)
        self.dispatcher = Dispatcher(core)
        self.circuits: Circuits = {}
        self._metrics = SchedulerMetrics(core, self.circuits)
        self._answering = Answering(settings, self.dispatcher, self._metrics)
        self._sessions = OpenSessions(settings, self._answering)
        self._servicer = InferenceServicer(self._answering, self._sessions, self.dispatcher)
        self._dialer = WorkerDialer(settings.worker_tls.client(), settings.worker_token_file, settings.deployment)
        self._services = [SERVICE, *([settings.deployment] if settings.deployment else [])]
        self._pool = WorkerPool(
            settings.worker, self._dialer, self.dispatcher, self.circuits, on_change=self._on_workers
        )
        self.is_draining = False
        self.port = 0
        limits = Limits(settings, core, self._answering)
        tenants = TenantLimits(settings.tenants, settings.other_tenants, core)
        operators = AdminServicer(self.dispatcher, self.circuits, limits, tenants, on_change=self._on_workers)
        self.admin = AdminServer(settings, operators)

    async def __aenter__(self) -> Self:
        await self._dialer.check()
        credentials = server_credentials(self._settings.tls)
        callers = self._settings.callers
        doorkeepers = [Authentication(callers)] if callers else []
        self._server = make_server(self._settings.server, doorkeepers=doorkeepers)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._servicer, self._server)
        self._health = add_health(self._server, self._services)
        if self._settings.server.reflection:
            add_reflection(self._server, [SERVICE])
        self.port = bind(self._server, self._settings.listen, credentials)
        self._endpoint = serve_metrics(self._settings.metrics_listen, self._metrics.registry)
        await self._server.start()
        await self.admin.start(server_credentials(self._settings.tls))  # gRPC binds one port with each
        self._workers = asyncio.get_running_loop().create_task(self._pool.run())
        encrypted = credentials is not None
        warn_of_exposure(log, self._settings.listen, encrypted=encrypted, authenticated=bool(callers))
        log.info("scheduler listens", port=self.port, workers=self._settings.worker, policy=self._settings.policy)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_draining = True
        self._health.shut_down()
        self._answering.drain()
        self._sessions.drain()
        await self._server.stop(grace=0)
        await self.admin.stop()
        self._workers.cancel()
        await asyncio.wait({self._workers})
        self._answering.close()
        self._endpoint.close()

    async def drain(self) -> None:
        """Refuse new requests and wait until the live ones have ended, ``drain_s`` at most."""
        self.is_draining = True
        self._health.shut_down()
        self._answering.drain()
        self._sessions.drain()
        log.info("scheduler drains", live=self._answering.live_requests)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                while self._answering.live_requests:
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            log.warning("scheduler stops with requests live", live=self._answering.live_requests)
            self.dispatcher.end_all(Draining)
        await asyncio.sleep(STATUS_GRACE_S)  # for the last statuses to leave; what comes meanwhile is refused as before

    def _on_workers(self) -> None:
        """Be ready while there is a worker."""
        if (model := self._pool.model) is not None and not self._answering.serves(model):
            self._answering.serve(model)
        if not self.is_draining:
            self._health.set_ready(*self._services, ready=self.dispatcher.workers > 0)


def make_core(settings: SchedulerSettings) -> Scheduler:
    """Return the core that decides as the settings say."""
    weights = {name: tenant.weight for name, tenant in settings.tenants.items()}
    policy = make_policy(settings.policy, settings.aging_s, ServiceClasses(settings).core(), weights)
    quotas = {name: tenant.quota() for name, tenant in settings.tenants.items()}
    return Scheduler(policy, settings.max_queued_requests, Quotas(quotas, settings.other_tenants.quota()))


async def run(settings: SchedulerSettings) -> NoReturn:
    """Serve until a signal, then end the process, with status 0.

    The server is not stopped first: what comes while gRPC stops one is answered with CANCELLED or INTERNAL, as if
    callers had done something. A connection that closes is UNAVAILABLE to them.
    """
    stop = asyncio.Event()
    async with SchedulerApp(settings) as app:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        settle()
        await stop.wait()
        await app.drain()
        sys.stdout.flush()
        os._exit(0)
