"""What the scheduler decides: values that the caller carries out, in the order given."""

from dataclasses import dataclass
from enum import Enum

from scheduler.core.request import Request


class RejectReason(Enum):
    """Why a request is refused."""

    QUEUE_FULL = "queue_full"
    """As many requests wait as may; it can be tried again later."""
    DEADLINE_PASSED = "deadline_passed"
    """Its deadline lies behind it on arrival."""
    TOO_LARGE = "too_large"
    """No known worker can ever hold it."""
    NO_WORKER = "no_worker"
    """No worker that could hold it is there; it can be tried again later."""
    INFEASIBLE = "infeasible"
    """Not even an idle worker could meet its targets."""
    INFEASIBLE_NOW = "infeasible_now"
    """Its targets cannot be met besides what is worth more; it can be tried again later."""


@dataclass(frozen=True, slots=True)
class Start:
    """The request runs on this worker from now on; its capacity is reserved."""

    request: Request
    worker_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The request has joined the queue.

    Attributes:
        request: Which request.
        position: How many requests are served before it, as things stand.
        estimated_wait_s: Estimated seconds until it starts; None while there is nothing to estimate from.

    """

    request: Request
    position: int
    estimated_wait_s: float | None


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is refused and no longer known.

    Attributes:
        request: Which request.
        reason: Why.
        retry_after_s: Seconds after which another try makes sense; None where it never does.
        estimate_s: Estimated seconds until it would have started; None while there is nothing to estimate from.

    """

    request: Request
    reason: RejectReason
    retry_after_s: float | None
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """The request's deadline passed in the queue; it never reached a worker."""

    request: Request


@dataclass(frozen=True, slots=True)
class Lose:
    """The request was running on a worker that is gone."""

    request: Request
    worker_id: str


Decision = Start | Wait | Reject | Expire | Lose
