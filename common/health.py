"""The standard health service, grpc.health.v1: whether this process lives, and which of its services are ready."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Liveness under the empty name, from the start; readiness under each service's name, when it is said.

    grpcio-health-checking's own servicer loses the other watchers of a service when one of them leaves, and its watches
    outlast ``shut_down`` and so hold up a server's stop for the whole grace period.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses = {"": _SERVING} | dict.fromkeys(services, _NOT_SERVING)
        self._changed = asyncio.Event()
        self._shut_down = False

    def set_ready(self, *services: str, ready: bool) -> None:
        """Say whether services can take requests now. Has no effect after ``shut_down``."""
        if not self._shut_down:
            self._statuses |= dict.fromkeys(services, _SERVING if ready else _NOT_SERVING)
            self._wake_watches()

    def shut_down(self) -> None:
        """Say NOT_SERVING of everything, for good, and end the watches after that."""
        self._shut_down = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._wake_watches()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with a service's status; NOT_FOUND where there is no such service."""
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Send a service's status now and whenever it changes."""
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status != sent:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)
            if self._shut_down and status == self._statuses.get(request.service, _SERVICE_UNKNOWN):
                return
            await changed.wait()

    def _wake_watches(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
