"""Where the admin API listens: apart from the public one, so that who can reach one need not reach the other."""

import grpc
import grpc.aio

from common.grpc_server import add_health, add_reflection, bind, make_server
from scheduler.admin import AdminServicer
from scheduler.authentication import Authentication
from scheduler.config import SchedulerSettings
from sluice.v1 import admin_pb2_grpc

SERVICE = "sluice.v1.AdminService"


class AdminServer:
    """The admin API, between ``start`` and ``stop``.

    Attributes:
        port: The port that it listens on; 0: it does not.

    """

    def __init__(self, settings: SchedulerSettings, servicer: AdminServicer) -> None:
        self._settings = settings
        self._servicer = servicer
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, credentials: grpc.ServerCredentials | None) -> None:
        """Listen, where the settings want it; without credentials in the clear. BindError where that cannot be."""
        if not self._settings.admin_listen:
            return
        callers = self._settings.callers
        self._server = make_server(self._settings.server, doorkeepers=[Authentication(callers)] if callers else [])
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._servicer, self._server)
        add_health(self._server, [SERVICE]).set_ready(SERVICE, ready=True)
        if self._settings.server.reflection:
            add_reflection(self._server, [SERVICE])
        self.port = bind(self._server, self._settings.admin_listen, credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.stop(grace=0)
