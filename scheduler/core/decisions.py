"""What the scheduler decides: values that the caller carries out, in the order given."""

from dataclasses import dataclass, field
from enum import Enum

from scheduler.core.quota import Excess
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
    OVER_QUOTA = "over_quota"
    """Its tenant uses as much as it may; it can be tried again later."""


@dataclass(frozen=True, slots=True)
class Start:
    """The request runs on this worker from now on; its capacity is reserved.

    Attributes:
        request: Which request.
        worker_id: Which worker.
        promised: Whether it is to meet its class's targets; a remark, which makes no other decision of it.

    """

    request: Request
    worker_id: str
    promised: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """The request has joined the queue.

    Attributes:
        request: Which request.
        position: How many requests are served before it, as things stand.
        estimated_wait_s: Estimated seconds until it starts; None while there is nothing to estimate from.
        promised: Whether it is to meet its class's targets; a remark, which makes no other decision of it.

    """

    request: Request
    position: int
    estimated_wait_s: float | None
    promised: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is refused and no longer known.

    Attributes:
        request: Which request.
        reason: Why.
        retry_after_s: Seconds after which another try makes sense; None where it never does.
        estimate_s: Estimated seconds until it would have started, or, where not even an idle worker could be in time,
            until its first token there; None while there is nothing to estimate from.
        excess: The quota that it exceeds, where that is the reason.

    """

    request: Request
    reason: RejectReason
    retry_after_s: float | None
    estimate_s: float | None = None
    excess: Excess | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """The request's deadline passed in the queue; it never reached a worker."""

    request: Request


@dataclass(frozen=True, slots=True)
class Lose:
    """The request was running on a worker that is gone; it may be resumed."""

    request: Request
    worker_id: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of a request that came now; nothing has.

    Attributes:
        refusal: Why it would be refused; None: it would be served.
        worker_id: The worker that it would start on at once; empty: none.
        place: The place in the queue that it would have; of a refused request, the one it would have had.
        expected_tokens: Output tokens to expect of each of its sequences.
        first_token_s: Estimated seconds from now to the first token; None while there is nothing to estimate from.
        total_s: Estimated seconds from now to the last token; None while there is nothing to estimate from.

    """

    refusal: Reject | None
    worker_id: str
    place: Wait
    expected_tokens: int
    first_token_s: float | None
    total_s: float | None


Decision = Start | Wait | Reject | Expire | Lose
