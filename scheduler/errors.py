"""One exception for each way a request can fail, and the one table from there to gRPC status codes."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Literal

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from common.rich_status import RichError, Violation, error_info, invalid_request
from scheduler.core.decisions import Reject, RejectReason
from scheduler.core.quota import Excess
from scheduler.suspicion import Scene
from scheduler.violations import short
from sluice.v1 import inference_pb2
from sluice.worker.v1 import worker_pb2

RETRY_AT_LEAST_S = 0.1
LOST_RETRY_S = 1.0
NO_WORKER_RETRY_S = 1.0
MOST_VIOLATIONS_IN_MESSAGE = 3


class Reason(StrEnum):
    """The outcome's name: ErrorInfo.reason, and a label of the metrics."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    INVALID_REQUEST = "INVALID_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    TOO_LARGE = "TOO_LARGE"
    NO_WORKER = "NO_WORKER"
    INFEASIBLE = "INFEASIBLE"
    INFEASIBLE_NOW = "INFEASIBLE_NOW"
    OVER_QUOTA = "OVER_QUOTA"
    DEADLINE_IN_QUEUE = "DEADLINE_IN_QUEUE"
    DEADLINE_WHILE_RUNNING = "DEADLINE_WHILE_RUNNING"
    WORKER_LOST = "WORKER_LOST"
    ENGINE_FAILED = "ENGINE_FAILED"
    SUSPECTED = "SUSPECTED"
    SLOW_READER = "SLOW_READER"
    DRAINING = "DRAINING"
    CANCELLED_BY_OPERATOR = "CANCELLED_BY_OPERATOR"
    WORKER_NOT_FOUND = "WORKER_NOT_FOUND"


STATUS = {
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_PASSED: grpc.StatusCode.DEADLINE_EXCEEDED,
    # Not INVALID_ARGUMENT: the request is within the model's limits, and workers with more KV cache would take it.
    Reason.TOO_LARGE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NO_WORKER: grpc.StatusCode.UNAVAILABLE,
    Reason.INFEASIBLE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INFEASIBLE_NOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.OVER_QUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_IN_QUEUE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.DEADLINE_WHILE_RUNNING: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.WORKER_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.ENGINE_FAILED: grpc.StatusCode.INTERNAL,
    # Not UNAVAILABLE or ABORTED, which clients answer by asking again.
    Reason.SUSPECTED: grpc.StatusCode.INTERNAL,
    Reason.SLOW_READER: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.CANCELLED_BY_OPERATOR: grpc.StatusCode.CANCELLED,
    Reason.WORKER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
}

REJECTIONS = {
    RejectReason.QUEUE_FULL: (Reason.QUEUE_FULL, "the queue is full", 1.0),
    # With a new deadline the same request may be sent again at once.
    RejectReason.DEADLINE_PASSED: (Reason.DEADLINE_PASSED, "the deadline has passed already", RETRY_AT_LEAST_S),
    RejectReason.TOO_LARGE: (Reason.TOO_LARGE, "no worker can hold this prompt, max_tokens and n; ask for less", None),
    RejectReason.INFEASIBLE: (Reason.INFEASIBLE, "not even an idle worker could answer in time", None),
    RejectReason.INFEASIBLE_NOW: (Reason.INFEASIBLE_NOW, "too much is promised to be in time for this too", 1.0),
    RejectReason.OVER_QUOTA: (Reason.OVER_QUOTA, "the tenant uses as much as it may", 1.0),
    RejectReason.NO_WORKER: (Reason.NO_WORKER, "no worker is ready", 1.0),
}


class SluiceError(Exception):
    """A request failed in a way that its caller is told about.

    Attributes:
        reason: Which outcome this is.
        metadata: Facts for programs, sent in ErrorInfo.
        retry_after_s: When asking again may help; None: it does not.
        violations: What is wrong with the request.
        quota: The quota that is used up, and whose it is.
        receipt: What the request had used; set by whoever knows it, once the request was accepted.

    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[Violation] = (),
        receipt: inference_pb2.FailureReceipt | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)
        self.quota: error_details_pb2.QuotaFailure.Violation | None = None
        self.receipt = receipt


class Unauthenticated(SluiceError):
    """The call does not say who makes it, or what it shows for it is not known here; ``needed`` is what would do."""

    def __init__(self, needed: str) -> None:
        super().__init__(Reason.UNAUTHENTICATED, f"this call needs {needed}")


class PermissionDenied(SluiceError):
    """The caller may not do this: it lacks a right, or a field of its request asks for what is not its own."""

    def __init__(self, message: str, *, field: str = "") -> None:
        metadata = {"field": field} if field else {}
        super().__init__(Reason.PERMISSION_DENIED, f"{field}: {message}" if field else message, metadata=metadata)


class InvalidRequest(SluiceError):
    """The request is at fault; asking again in the same words does not help."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        shown = violations[:MOST_VIOLATIONS_IN_MESSAGE]
        lines = [f"{each.field or 'request'}: {each.description}" for each in shown]
        if len(violations) > len(shown):
            lines.append(f"and {len(violations) - len(shown)} more")
        super().__init__(Reason.INVALID_REQUEST, "; ".join(lines), violations=violations)


class ModelNotFound(SluiceError):
    """The request names a model that is not served here."""

    def __init__(self, name: str, served: str) -> None:
        message = f"model {short(name)} is not served here; {served} is"
        super().__init__(Reason.MODEL_NOT_FOUND, message, metadata={"model": short(name), "served": served})


class Rejected(SluiceError):
    """The request was refused before it ran; ``facts`` are the numbers behind it: queued and limit, for instance."""

    def __init__(
        self, reason: RejectReason, retry_after_s: float | None = None, *, facts: Mapping[str, object] | None = None
    ) -> None:
        name, message, usual_retry_s = REJECTIONS[reason]
        metadata = {key: str(value) for key, value in (facts or {}).items()}
        numbers = ", ".join(f"{key} {value}" for key, value in metadata.items())
        super().__init__(
            name,
            f"{message}: {numbers}" if numbers else message,
            metadata=metadata,
            retry_after_s=usual_retry_s if retry_after_s is None else retry_after_s,
        )


class Expired(SluiceError):
    """The deadline passed after the request was accepted."""

    def __init__(self, where: Literal["queue", "running"], receipt: inference_pb2.FailureReceipt) -> None:
        reason = Reason.DEADLINE_IN_QUEUE if where == "queue" else Reason.DEADLINE_WHILE_RUNNING
        super().__init__(reason, _where_the_time_went(where, receipt), receipt=receipt)


class WorkerLost(SluiceError):
    """The worker went away, or does not take the request; it may go on elsewhere, and the caller never learns of it.

    Attributes:
        refused: Whether the worker is there and has refused the request, so that it never ran.
        scene: Who was there when it died; None where it did not, or did not have the request.

    """

    def __init__(self, worker: str, *, why: str = "", refused: bool = False, scene: Scene | None = None) -> None:
        message = f"worker {worker} was lost" + (f": {why}" if why else "")
        super().__init__(Reason.WORKER_LOST, message, metadata={"worker": worker}, retry_after_s=LOST_RETRY_S)
        self.refused = refused
        self.scene = scene

    def final(self, why: str) -> "WorkerLost":
        """Return what the caller is told of a request that cannot go on elsewhere; ``why`` says what is against it."""
        return WorkerLost(self.metadata["worker"], why=why)


class EngineFailed(SluiceError):
    """The worker's engine failed while it ran the request."""

    def __init__(self, worker: str, why: str) -> None:
        super().__init__(Reason.ENGINE_FAILED, f"the engine of {worker} failed: {why}", metadata={"worker": worker})


class Suspected(SluiceError):
    """The request may be what ended its workers, of which ``worker`` was the last, and is not given to another one."""

    def __init__(self, worker: str, deaths: int) -> None:
        workers = f"worker {worker}" if deaths == 1 else f"{deaths} workers, the last of them {worker},"
        message = f"the request was running without a first token when {workers} died; it is not tried again"
        super().__init__(Reason.SUSPECTED, message, metadata={"worker": worker, "deaths": str(deaths)})


class SlowReader(SluiceError):
    """The client reads its answer so much more slowly than it is generated that too much of it waits here."""

    def __init__(self) -> None:
        super().__init__(Reason.SLOW_READER, "the answer was not read; its generation was stopped")


def no_worker() -> Rejected:
    """Return the error of a request for whose model there is no worker."""
    return Rejected(RejectReason.NO_WORKER, retry_after_s=NO_WORKER_RETRY_S)


class Draining(SluiceError):
    """This process is shutting down and takes no new requests."""

    def __init__(self, *, retry_after_s: float = 1.0) -> None:
        super().__init__(Reason.DRAINING, "shutting down; ask another instance", retry_after_s=retry_after_s)


class CancelledByOperator(SluiceError):
    """Somebody with the right to do so has ended the request."""

    def __init__(self) -> None:
        super().__init__(Reason.CANCELLED_BY_OPERATOR, "an operator cancelled this request")


class WorkerNotFound(SluiceError):
    """An operator names a worker that is not there."""

    def __init__(self, worker: str) -> None:
        super().__init__(
            Reason.WORKER_NOT_FOUND, f"there is no worker {short(worker)}", metadata={"worker": short(worker)}
        )


def from_refusal(refusal: Reject, *, queued: int, workers: int) -> Rejected:
    """Return the exception for the core's refusal, with the numbers behind it."""
    facts: dict[str, object] = {"class": refusal.request.class_name, "queued": queued, "workers": workers}
    if refusal.estimate_s is not None:
        idle = refusal.reason is RejectReason.INFEASIBLE
        facts["estimated_first_token_s" if idle else "estimated_wait_s"] = round(refusal.estimate_s, 3)
    if refusal.excess is None:
        return Rejected(refusal.reason, refusal.retry_after_s, facts=facts)
    return from_excess(refusal.excess, refusal.request.tenant)


def from_excess(excess: Excess, tenant: str) -> Rejected:
    """Return the exception for a quota that is used up."""
    name = short(tenant) or "(none)"
    facts = {"tenant": name, excess.kind: excess.limit}
    error = Rejected(RejectReason.OVER_QUOTA, excess.retry_after_s, facts=facts)
    error.quota = error_details_pb2.QuotaFailure.Violation(
        subject=f"tenant:{name}", description=f"{excess.kind}: at most {excess.limit}"
    )
    return error


def from_failure(failure: worker_pb2.Failure, worker: str) -> SluiceError:
    """Return the exception for a worker's failure."""
    match failure.reason:
        case worker_pb2.FAILURE_REASON_INVALID:
            return InvalidRequest([Violation(failure.field, failure.message)])
        case worker_pb2.FAILURE_REASON_DRAINING:
            return WorkerLost(worker, why="it is shutting down", refused=True)
        case worker_pb2.FAILURE_REASON_ENGINE_DEAD:
            return WorkerLost(worker, why=failure.message)
        case _:
            return EngineFailed(worker, failure.message)


def to_rich_error(error: SluiceError) -> RichError:
    """Return the status that the caller gets for ``error``."""
    return RichError(STATUS[error.reason], str(error), tuple(_details(error)))


def _details(error: SluiceError) -> Iterator[Message]:
    if error.violations:
        yield from invalid_request(*error.violations).details
    else:
        yield error_info(error.reason.value, **error.metadata)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMicroseconds(round(max(error.retry_after_s, RETRY_AT_LEAST_S) * 1e6))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
    if error.quota is not None:
        yield error_details_pb2.QuotaFailure(violations=[error.quota])
    if error.receipt is not None:
        yield error.receipt


def _where_the_time_went(where: Literal["queue", "running"], receipt: inference_pb2.FailureReceipt) -> str:
    timings = receipt.timings
    passed = f"deadline passed after {_seconds(timings.total)}"
    if where == "queue":
        return f"{passed}, all of it in the queue"
    spent = f"{passed}: {_seconds(timings.queued)} in the queue"
    if not timings.HasField("time_to_first_token"):
        return f"{spent}, no token yet from the worker"
    first = _seconds(timings.time_to_first_token)
    return f"{spent}, first token after {first}, {receipt.usage.output_tokens} tokens in all"


def _seconds(duration: Duration) -> str:
    return f"{duration.seconds + duration.nanos / 1e9:.2f} s"
