"""The operators' gRPC face: what waits and runs, where, and how to step in."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet

from common.rich_status import Violation, abort
from scheduler.caller import Right, caller_of
from scheduler.circuit import Circuits
from scheduler.dispatcher import Dispatcher
from scheduler.errors import (
    CancelledByOperator,
    InvalidRequest,
    SluiceError,
    WorkerNotFound,
    to_rich_error,
)
from scheduler.limits import Limits
from scheduler.request_filter import check_filter, matching
from scheduler.summaries import request_summary, worker_summaries
from scheduler.tenant_limits import TenantLimits
from sluice.v1 import admin_pb2, admin_pb2_grpc

DEFAULT_LIMIT, MOST_LISTED = 1000, 10_000

log = structlog.get_logger("scheduler")

Request = TypeVar("Request")
Response = TypeVar("Response")
Servicer = TypeVar("Servicer")


def _guarded(
    handler: Callable[[Servicer, Request], Response],
) -> Callable[[Servicer, Request, Any], Awaitable[Response]]:
    """Let operators alone through, and turn errors into statuses."""

    @wraps(handler)
    async def handle(self: Servicer, request: Request, context: Any) -> Response:
        try:
            caller_of(context).entitled(Right.ADMIN)
            return handler(self, request)
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error

    return handle


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Serves sluice.v1.AdminService; ``on_change`` hears that workers are given requests or not."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        circuits: Circuits,
        limits: Limits,
        tenants: TenantLimits,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._circuits = circuits
        self._limits = limits
        self._tenants = tenants
        self._on_change = on_change

    @_guarded
    def ListRequests(self, request: admin_pb2.ListRequestsRequest) -> admin_pb2.ListRequestsResponse:  # noqa: N802
        """List requests; see the proto."""
        check_filter(request.filter)
        if request.limit > MOST_LISTED:
            raise InvalidRequest([Violation("limit", f"must be at most {MOST_LISTED}; got {request.limit}")])
        found = sorted(matching(request.filter, self._dispatcher), key=lambda lease: lease.request.arrival_s)
        now_s = time.monotonic()
        listed = found[: request.limit or DEFAULT_LIMIT]
        return admin_pb2.ListRequestsResponse(
            requests=[request_summary(lease, now_s) for lease in listed], total=len(found)
        )

    @_guarded
    def ListWorkers(self, request: admin_pb2.ListWorkersRequest) -> admin_pb2.ListWorkersResponse:  # noqa: N802
        """List workers; see the proto."""
        return admin_pb2.ListWorkersResponse(workers=worker_summaries(self._dispatcher, self._circuits))

    @_guarded
    def CancelRequests(self, request: admin_pb2.CancelRequestsRequest) -> admin_pb2.CancelRequestsResponse:  # noqa: N802
        """End requests; see the proto."""
        check_filter(request.filter)
        if len(UnknownFieldSet(request.filter)):  # ignored it would let more be cancelled than was meant
            raise InvalidRequest([Violation("filter", "has a field that is unknown here")])
        if not request.filter.ListFields():
            raise InvalidRequest([Violation("filter", "must name what to cancel: ids, a tenant, a class or a state")])
        found = matching(request.filter, self._dispatcher)
        for lease in found:
            lease.end(CancelledByOperator())
        log.info("operator cancelled requests", requests=len(found))
        return admin_pb2.CancelRequestsResponse(cancelled=len(found))

    @_guarded
    def DrainWorker(self, request: admin_pb2.DrainWorkerRequest) -> admin_pb2.DrainWorkerResponse:  # noqa: N802
        """Give a worker nothing new; see the proto."""
        return admin_pb2.DrainWorkerResponse(worker=self._change(request.worker, self._dispatcher.rest, "drained"))

    @_guarded
    def UndrainWorker(self, request: admin_pb2.UndrainWorkerRequest) -> admin_pb2.UndrainWorkerResponse:  # noqa: N802
        """Give a worker requests again; see the proto."""
        return admin_pb2.UndrainWorkerResponse(worker=self._change(request.worker, self._dispatcher.wake, "undrained"))

    @_guarded
    def GetLimits(self, request: admin_pb2.GetLimitsRequest) -> admin_pb2.GetLimitsResponse:  # noqa: N802
        """Tell the limits; see the proto."""
        return admin_pb2.GetLimitsResponse(limits=self._limits.message())

    @_guarded
    def UpdateLimits(self, request: admin_pb2.UpdateLimitsRequest) -> admin_pb2.UpdateLimitsResponse:  # noqa: N802
        """Change limits; see the proto."""
        self._limits.update(request)
        limits = self._limits.message()
        log.info(
            "operator changed limits",
            max_queued_requests=limits.max_queued_requests,
            max_tokens_cap=limits.max_tokens_cap,
        )
        return admin_pb2.UpdateLimitsResponse(limits=limits)

    @_guarded
    def ListTenants(self, request: admin_pb2.ListTenantsRequest) -> admin_pb2.ListTenantsResponse:  # noqa: N802
        """List tenants' limits; see the proto."""
        return admin_pb2.ListTenantsResponse(tenants=self._tenants)

    @_guarded
    def UpdateTenant(self, request: admin_pb2.UpdateTenantRequest) -> admin_pb2.UpdateTenantResponse:  # noqa: N802
        """Change a tenant's limits; see the proto."""
        limits = self._tenants.update(request)
        log.info("operator changed a tenant's limits", **MessageToDict(limits, preserving_proto_field_name=True))
        return admin_pb2.UpdateTenantResponse(limits=limits)

    def _change(self, worker_id: str, change: Callable[[str], None], what: str) -> admin_pb2.WorkerSummary:
        if self._dispatcher.session(worker_id) is None:
            raise WorkerNotFound(worker_id)
        change(worker_id)
        log.info(f"operator {what} a worker", worker=worker_id)
        self._on_change()
        summaries = worker_summaries(self._dispatcher, self._circuits)
        return next(each for each in summaries if each.worker == worker_id)
