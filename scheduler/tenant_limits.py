"""What tenants may use, which operators change while the scheduler runs."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from common.rich_status import Violation
from scheduler.core.quota import Quota
from scheduler.core.scheduler import Scheduler
from scheduler.errors import InvalidRequest
from scheduler.tenant_settings import LONGEST_NAME, QuotaSettings, TenantSettings
from scheduler.violations import must
from sluice.v1 import admin_pb2

FIELDS: Final = frozenset(admin_pb2.TenantLimits.DESCRIPTOR.fields_by_name) - {"tenant"}
COUNTS: Final = ("tokens_per_minute", "max_requests")


class TenantLimits:
    """Holds the limits of tenants, and tells the core, which keeps to them."""

    def __init__(self, tenants: Mapping[str, TenantSettings], others: QuotaSettings, core: Scheduler) -> None:
        self._core = core
        self._limits = {"": _message("", others)}
        self._limits |= {name: _message(name, tenant, weight=tenant.weight) for name, tenant in tenants.items()}

    def __iter__(self) -> Iterator[admin_pb2.TenantLimits]:
        """All others' limits first."""
        return iter(self._limits.values())

    def update(self, request: admin_pb2.UpdateTenantRequest) -> admin_pb2.TenantLimits:
        """Change what the request means; return the tenant's limits.

        Raises:
            InvalidRequest: The mask names another field, or a value is out of bounds.

        """
        tenant = request.limits.tenant
        new = admin_pb2.TenantLimits()
        new.CopyFrom(self._limits.get(tenant, self._limits[""]))
        new.tenant = tenant
        for name in _meant(request):
            new.ClearField(name)  # type: ignore[arg-type]
            if request.limits.HasField(name):  # type: ignore[arg-type]
                setattr(new, name, getattr(request.limits, name))
        if tenant and not new.HasField("weight"):
            new.weight = 1.0
        if found := list(_violations(new)):
            raise InvalidRequest(found)
        self._limits[tenant] = new
        self._obey(new)
        return new

    def _obey(self, limits: admin_pb2.TenantLimits) -> None:
        given = (getattr(limits, name) if limits.HasField(name) else None for name in COUNTS)
        self._core.set_quota(limits.tenant or None, Quota(*given), time.monotonic())
        if limits.tenant:
            self._core.set_weight(limits.tenant, limits.weight)


def _message(tenant: str, settings: QuotaSettings, **more: Any) -> admin_pb2.TenantLimits:
    quota = settings.quota()
    return admin_pb2.TenantLimits(
        tenant=tenant, tokens_per_minute=quota.tokens_per_minute, max_requests=quota.max_requests, **more
    )


def _meant(request: admin_pb2.UpdateTenantRequest) -> list[str]:
    if not request.HasField("update_mask"):
        return [field.name for field, _ in request.limits.ListFields() if field.name in FIELDS]
    if unknown := sorted(set(request.update_mask.paths) - FIELDS):
        raise InvalidRequest([must("update_mask", f"name some of {', '.join(sorted(FIELDS))}", unknown[0])])
    return list(request.update_mask.paths)


def _violations(limits: admin_pb2.TenantLimits) -> Iterator[Violation]:
    if len(limits.tenant) > LONGEST_NAME:
        yield must("limits.tenant", f"have at most {LONGEST_NAME} characters", len(limits.tenant))
    for name in COUNTS:
        if limits.HasField(name) and not getattr(limits, name):
            yield must(f"limits.{name}", "be at least 1", 0)
    if limits.HasField("weight"):
        if not limits.tenant:
            yield must("limits.weight", "be unset for those without limits of their own", limits.weight)
        elif not 0 < limits.weight < float("inf"):
            yield must("limits.weight", "be above 0", limits.weight)
