"""The admin API for commands: plain values in, messages out."""

from collections.abc import Sequence

from common.client import Client
from sluice.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 20.0


def request_filter(
    ids: Sequence[str] = (), *, tenant: str | None = None, service_class: str | None = None, state: str | None = None
) -> admin_pb2.RequestFilter:
    """Build a filter; ``state`` is waiting or running, and None leaves a field out."""
    return admin_pb2.RequestFilter(
        request_ids=ids,
        tenant=tenant,
        service_class=service_class,
        state=admin_pb2.RequestState.Value(f"REQUEST_STATE_{(state or 'unspecified').upper()}"),
    )


class AdminClient:
    """Calls the admin API that a client is connected to; each method raises grpc.aio.AioRpcError where it fails."""

    def __init__(self, client: Client) -> None:
        self._stub: admin_pb2_grpc.AdminServiceAsyncStub = admin_pb2_grpc.AdminServiceStub(client.channel)
        self._metadata = client.metadata

    async def requests(self, wanted: admin_pb2.RequestFilter, limit: int) -> admin_pb2.ListRequestsResponse:
        """List requests; ``limit`` 0: the service's own."""
        message = admin_pb2.ListRequestsRequest(filter=wanted, limit=limit)
        return await self._stub.ListRequests(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def workers(self) -> admin_pb2.ListWorkersResponse:
        """List workers."""
        message = admin_pb2.ListWorkersRequest()
        return await self._stub.ListWorkers(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def cancel(self, wanted: admin_pb2.RequestFilter) -> admin_pb2.CancelRequestsResponse:
        """End requests."""
        message = admin_pb2.CancelRequestsRequest(filter=wanted)
        return await self._stub.CancelRequests(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def limits(
        self, *, max_queued_requests: int | None = None, max_tokens_cap: int | None = None
    ) -> admin_pb2.UpdateLimitsResponse | admin_pb2.GetLimitsResponse:
        """Change the limits that are given, maybe none, and return all."""
        given = {"max_queued_requests": max_queued_requests, "max_tokens_cap": max_tokens_cap}
        named = {name: value for name, value in given.items() if value is not None}
        if not named:
            return await self._stub.GetLimits(admin_pb2.GetLimitsRequest(), timeout=TIMEOUT_S, metadata=self._metadata)
        message = admin_pb2.UpdateLimitsRequest(limits=admin_pb2.Limits(**named))
        message.update_mask.paths.extend(named)
        return await self._stub.UpdateLimits(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def tenants(self) -> admin_pb2.ListTenantsResponse:
        """List the limits of tenants."""
        message = admin_pb2.ListTenantsRequest()
        return await self._stub.ListTenants(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def change_tenant(self, tenant: str, **limits: float | None) -> admin_pb2.UpdateTenantResponse:
        """Change the limits that are given, by their names in TenantLimits; None: no limit."""
        named = {name: value for name, value in limits.items() if value is not None}
        message = admin_pb2.UpdateTenantRequest(limits=admin_pb2.TenantLimits(tenant=tenant, **named))  # type: ignore[arg-type]
        message.update_mask.paths.extend(limits)
        return await self._stub.UpdateTenant(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def drain(self, worker: str) -> admin_pb2.DrainWorkerResponse:
        """Give a worker nothing new."""
        message = admin_pb2.DrainWorkerRequest(worker=worker)
        return await self._stub.DrainWorker(message, timeout=TIMEOUT_S, metadata=self._metadata)

    async def undrain(self, worker: str) -> admin_pb2.UndrainWorkerResponse:
        """Give a worker requests again."""
        message = admin_pb2.UndrainWorkerRequest(worker=worker)
        return await self._stub.UndrainWorker(message, timeout=TIMEOUT_S, metadata=self._metadata)
