"""For whom a request is served: the tenant, as the call's metadata names it."""

from collections.abc import Iterable

from common.client import TENANT_KEY
from common.rich_status import Violation
from scheduler.errors import InvalidRequest
from scheduler.violations import must

LONGEST_NAME = 64
FIELD = f"metadata.{TENANT_KEY}"


def tenant_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the tenant's name; empty where the call names none.

    Raises:
        InvalidRequest: There are several names, or one that will not do.

    """
    names = [value for key, value in metadata or () if key == TENANT_KEY]
    if not names:
        return ""
    if len(names) > 1:
        raise InvalidRequest([Violation(FIELD, f"must occur once; got {len(names)}")])
    name = names[0] if isinstance(names[0], str) else names[0].decode("latin-1")
    check_name(FIELD, name)
    return name


def check_name(field: str, name: str) -> None:
    """Check a tenant's name; InvalidRequest when it will not do. gRPC lets other bytes than ASCII through, too."""
    if not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidRequest([must(field, f"have 1 to {LONGEST_NAME} characters", len(name))])
    if not (name.isascii() and name.isprintable()):
        raise InvalidRequest([Violation(field, "must be printable ASCII")])
