"""Who is refused."""

from scheduler.core.decisions import Reject, RejectReason
from scheduler.core.fleet import Fleet
from scheduler.core.quota import Excess
from scheduler.core.request import Request

# A guess, for lack of anything to estimate from: long enough not to be a storm, short enough not to be an outage.
RETRY_AFTER_UNKNOWN_S = 1.0


def refuse_arrival(request: Request, fleet: Fleet, now: float) -> Reject | None:
    """Refuse what is pointless to keep: late on arrival, nowhere to run, or larger than every worker."""
    if request.deadline_s <= now:
        return Reject(request, RejectReason.DEADLINE_PASSED, RETRY_AFTER_UNKNOWN_S)
    if not fleet:
        return refuse_unserved(request)
    if not fleet.fits(request):
        return Reject(request, RejectReason.TOO_LARGE, None)
    return None


def refuse_unserved(request: Request) -> Reject:
    """Refuse a request that no worker is there for; one may come."""
    return Reject(request, RejectReason.NO_WORKER, RETRY_AFTER_UNKNOWN_S)


def refuse_overflow(request: Request, estimated_wait_s: float | None) -> Reject:
    """Refuse a request that would have to wait where no more may.

    ``estimated_wait_s`` is the wait behind all that do: a retry after it finds the queue drained.
    """
    retry_after_s = RETRY_AFTER_UNKNOWN_S if estimated_wait_s is None else estimated_wait_s
    return Reject(request, RejectReason.QUEUE_FULL, retry_after_s)


def refuse_excess(request: Request, excess: Excess) -> Reject:
    """Refuse a request whose tenant uses as much as it may."""
    return Reject(request, RejectReason.OVER_QUOTA, excess.retry_after_s, excess=excess)
