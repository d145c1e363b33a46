"""Who makes a call, and what it may do."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from scheduler.errors import PermissionDenied
from scheduler.tenant import tenant_of
from scheduler.violations import short


class Right(StrEnum):
    """What a caller may be allowed to do."""

    GENERATE = "generate"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    Attributes:
        tenant: For whom its requests are; empty: nobody in particular.
        rights: What it may do.
        classes: Names of the service classes that it may use; None: every class.
        any_tenant: Whether it may speak for other tenants too.

    """

    tenant: str
    rights: frozenset[Right] = frozenset(Right)
    classes: frozenset[str] | None = None
    any_tenant: bool = True

    def entitled(self, right: Right) -> "Caller":
        """Return this caller; PermissionDenied where it lacks the right."""
        if right not in self.rights:
            raise PermissionDenied(f"the caller lacks the right {right.value}")
        return self

    def speaking_for(self, tenant: str, field: str) -> "Caller":
        """Return this caller with the tenant that ``field`` of a call names.

        Raises:
            PermissionDenied: It speaks for another one alone.

        """
        if tenant != self.tenant and not self.any_tenant:
            raise PermissionDenied(f"must be {self.tenant} or unset; got {short(tenant)}", field=field)
        return replace(self, tenant=tenant)


def anybody(context: Any) -> Caller:
    """Believe what the call says of itself, and allow everything."""
    return Caller(tenant_of(context.invocation_metadata()))


identify: ContextVar[Callable[[Any], Caller]] = ContextVar("identify", default=anybody)
"""How the call that this task serves is identified."""


def caller_of(context: Any) -> Caller:
    """Return who makes the call of this context; to be called in the task that gRPC gave to the handler.

    Without authentication that is whom the metadata names, with all rights and every class.

    Raises:
        SluiceError: The call may not be made, or its metadata will not do.

    """
    return identify.get()(context)
