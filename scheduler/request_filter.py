"""Which of the requests that wait or run an operator means."""

from collections.abc import Iterator

from common.rich_status import Violation
from scheduler.dispatcher import Dispatcher, Lease
from scheduler.errors import InvalidRequest
from sluice.v1 import admin_pb2

MOST_IDS = 1000


def check_filter(wanted: admin_pb2.RequestFilter) -> None:
    """Raise InvalidRequest where a filter will not do."""
    violations = []
    if len(wanted.request_ids) > MOST_IDS:
        violations.append(
            Violation("filter.request_ids", f"must be at most {MOST_IDS} ids; got {len(wanted.request_ids)}")
        )
    if wanted.state not in admin_pb2.RequestState.values():
        violations.append(Violation("filter.state", f"must be a RequestState; got {wanted.state}"))
    if violations:
        raise InvalidRequest(violations)


def matching(wanted: admin_pb2.RequestFilter, dispatcher: Dispatcher) -> list[Lease]:
    """Return the leases that match all that is set."""
    return list(_matching(wanted, dispatcher))


def _matching(wanted: admin_pb2.RequestFilter, dispatcher: Dispatcher) -> Iterator[Lease]:
    ids = frozenset(wanted.request_ids)
    for lease in dispatcher.leases:
        request = lease.request
        if (
            (not ids or request.request_id in ids)
            and (not wanted.HasField("tenant") or request.tenant == wanted.tenant)
            and (not wanted.HasField("service_class") or request.class_name == wanted.service_class)
            and wanted.state in (admin_pb2.REQUEST_STATE_UNSPECIFIED, state_of(lease))
            and (lease.waits or lease.has_worker)
        ):
            yield lease


def state_of(lease: Lease) -> admin_pb2.RequestState.ValueType:
    """Whether a request that is not over has a worker."""
    return admin_pb2.REQUEST_STATE_WAITING if lease.waits else admin_pb2.REQUEST_STATE_RUNNING
