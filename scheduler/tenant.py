"""For whom a request is served: the tenant, as the call's metadata names it."""

from collections.abc import Iterable

from common.client import TENANT_KEY
from common.rich_status import Violation
from scheduler.errors import InvalidRequest

LONGEST_NAME = 64
FIELD = f"metadata.{TENANT_KEY}"


def tenant_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the tenant's name; empty where the call names none.

    Raises:
        InvalidRequest: There are several names, or one that is too long. gRPC lets printable ASCII through alone.

    """
    names = [value for key, value in metadata or () if key == TENANT_KEY]
    if not names:
        return ""
    if len(names) > 1:
        raise InvalidRequest([Violation(FIELD, f"must occur once; got {len(names)}")])
    name = names[0] if isinstance(names[0], str) else names[0].decode("latin-1")
    if not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidRequest([Violation(FIELD, f"must have 1 to {LONGEST_NAME} characters; got {len(name)}")])
    return name
