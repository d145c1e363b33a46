"""Every outcome has its status, its details, and words that say what happened."""

from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from common.rich_status import Violation, status_details
from scheduler.core.decisions import Reject, RejectReason
from scheduler.core.quota import Excess
from scheduler.errors import (
    REJECTIONS,
    STATUS,
    CancelledByOperator,
    Draining,
    EngineFailed,
    Expired,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    Reason,
    Rejected,
    SlowReader,
    SluiceError,
    Suspected,
    Unauthenticated,
    WorkerLost,
    WorkerNotFound,
    from_failure,
    from_refusal,
    to_rich_error,
)
from sluice.v1.inference_pb2 import FailureReceipt, Timings, Usage
from sluice.worker.v1 import worker_pb2
from tests.scheduler.core.builders import make_request

RECEIPT = FailureReceipt(
    request_id="r1",
    usage=Usage(prompt_tokens=5, output_tokens=12),
    timings=Timings(
        queued=Duration(seconds=1, nanos=500_000_000),
        time_to_first_token=Duration(seconds=1, nanos=800_000_000),
        total=Duration(seconds=2),
    ),
    worker="w1",
)
STILL_PREFILLING = FailureReceipt(timings=Timings(queued=Duration(nanos=10_000_000), total=Duration(seconds=2)))

INVALID = InvalidRequest([Violation("prompt", "must not be empty"), Violation("", "makes no sense")])
ALL = [
    (Unauthenticated("a bearer token"), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", None),
    (PermissionDenied("must be acme", field="tenant"), grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", None),
    (CancelledByOperator(), grpc.StatusCode.CANCELLED, "CANCELLED_BY_OPERATOR", None),
    (WorkerNotFound("w"), grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND", None),
    (INVALID, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", None),
    (ModelNotFound("other", "demo"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", None),
    (Rejected(RejectReason.QUEUE_FULL, 2.5), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 2.5),
    (Rejected(RejectReason.QUEUE_FULL), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1.0),
    (Rejected(RejectReason.QUEUE_FULL, 0.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.1),
    (Rejected(RejectReason.DEADLINE_PASSED), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED", 0.1),
    (Rejected(RejectReason.TOO_LARGE), grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", None),
    (Rejected(RejectReason.INFEASIBLE), grpc.StatusCode.DEADLINE_EXCEEDED, "INFEASIBLE", None),
    (Rejected(RejectReason.INFEASIBLE_NOW, 2.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "INFEASIBLE_NOW", 2.0),
    (Rejected(RejectReason.OVER_QUOTA, 3.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVER_QUOTA", 3.0),
    (Rejected(RejectReason.NO_WORKER), grpc.StatusCode.UNAVAILABLE, "NO_WORKER", 1.0),
    (Expired("queue", RECEIPT), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_IN_QUEUE", None),
    (Expired("running", RECEIPT), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_WHILE_RUNNING", None),
    (WorkerLost("w1"), grpc.StatusCode.UNAVAILABLE, "WORKER_LOST", 1.0),
    (EngineFailed("w1", "out of memory"), grpc.StatusCode.INTERNAL, "ENGINE_FAILED", None),
    (Suspected("w1", 2), grpc.StatusCode.INTERNAL, "SUSPECTED", None),
    (SlowReader(), grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER", None),
    (Draining(), grpc.StatusCode.UNAVAILABLE, "DRAINING", 1.0),
]


M = TypeVar("M", bound=Message)


def detail_of(error: SluiceError, kind: type[M]) -> M | None:
    found = [each for each in to_rich_error(error).details if isinstance(each, kind)]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(("error", "code", "reason", "retry_s"), ALL, ids=lambda each: str(each)[:30])
def test_an_outcome_has_its_status_reason_and_time_of_retry(
    error: SluiceError, code: grpc.StatusCode, reason: str, retry_s: float | None
) -> None:
    rich = to_rich_error(error)
    info = detail_of(error, error_details_pb2.ErrorInfo)
    retry = detail_of(error, error_details_pb2.RetryInfo)
    assert rich.code == code
    assert rich.message == str(error) != ""
    assert info is not None
    assert (info.domain, info.reason) == ("sluice", reason)
    assert (retry.retry_delay.ToTimedelta().total_seconds() if retry else None) == retry_s


def test_the_tables_leave_nothing_out() -> None:
    assert set(STATUS) == set(Reason)
    assert set(REJECTIONS) == set(RejectReason)
    assert {reason for _, _, reason, _ in ALL} == {reason.value for reason in Reason}


def test_violations_are_fields_for_programs_and_a_line_for_people() -> None:
    bad = detail_of(INVALID, error_details_pb2.BadRequest)
    assert bad is not None
    assert [(each.field, each.description) for each in bad.field_violations] == [
        ("prompt", "must not be empty"),
        ("", "makes no sense"),
    ]
    assert str(INVALID) == "prompt: must not be empty; request: makes no sense"


def test_many_violations_fit_into_what_clients_accept() -> None:
    error = InvalidRequest(
        [Violation(f"chat.messages[{i}].role", "must be something; got " + "x" * 40) for i in range(5000)]
    )
    rich = to_rich_error(error)
    assert str(error).endswith("; and 4997 more")
    assert sum(len(value) for _, value in status_details(rich.code, rich.message, rich.details)) < 8192


def test_a_full_queue_tells_its_numbers() -> None:
    error = Rejected(RejectReason.QUEUE_FULL, 1.0, facts={"queued": 1024, "limit": 1024})
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert str(error) == "the queue is full: queued 1024, limit 1024"
    assert info is not None
    assert dict(info.metadata) == {"queued": "1024", "limit": "1024"}


def test_a_refusal_tells_the_estimate_behind_it() -> None:
    refusal = Reject(make_request(service_class="chat"), RejectReason.INFEASIBLE_NOW, 2.0, estimate_s=1.23456)
    error = from_refusal(refusal, queued=7, workers=2)
    assert error.metadata == {"class": "chat", "queued": "7", "workers": "2", "estimated_wait_s": "1.235"}
    hopeless = Reject(make_request(service_class="chat"), RejectReason.INFEASIBLE, None, estimate_s=4.0)
    assert from_refusal(hopeless, queued=0, workers=1).metadata["estimated_first_token_s"] == "4.0"


def test_who_is_over_quota_is_told_which_one() -> None:
    excess = Excess("tokens_per_minute", 1000, 2.5)
    refusal = Reject(make_request(tenant="acme"), RejectReason.OVER_QUOTA, 2.5, excess=excess)
    error = from_refusal(refusal, queued=0, workers=1)
    quota = detail_of(error, error_details_pb2.QuotaFailure)
    assert quota is not None
    assert [(each.subject, each.description) for each in quota.violations] == [
        ("tenant:acme", "tokens_per_minute: at most 1000")
    ]
    assert str(error) == "the tenant uses as much as it may: tenant acme, tokens_per_minute 1000"


def test_a_model_that_is_not_served_is_named_with_the_one_that_is_and_not_at_length() -> None:
    error = ModelNotFound("m" * 5000, "demo")
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert str(error) == f"model {'m' * 39}… is not served here; demo is"
    assert info is not None
    assert info.metadata["served"] == "demo"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Expired("queue", RECEIPT), "deadline passed after 2.00 s, all of it in the queue"),
        (
            Expired("running", RECEIPT),
            "deadline passed after 2.00 s: 1.50 s in the queue, first token after 1.80 s, 12 tokens in all",
        ),
        (
            Expired("running", STILL_PREFILLING),
            "deadline passed after 2.00 s: 0.01 s in the queue, no token yet from the worker",
        ),
    ],
)
def test_a_missed_deadline_says_where_the_time_went(error: Expired, message: str) -> None:
    assert str(error) == message
    assert detail_of(error, FailureReceipt) == error.receipt


def test_any_error_of_an_accepted_request_can_carry_its_receipt() -> None:
    error = WorkerLost("w1", why="its answer follows a grammar and cannot be resumed")
    assert detail_of(error, FailureReceipt) is None
    error.receipt = RECEIPT
    assert detail_of(error, FailureReceipt) == RECEIPT
    assert str(error) == "worker w1 was lost: its answer follows a grammar and cannot be resumed"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (
            worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_INVALID, field="sampling.n", message="too many"),
            InvalidRequest,
            "sampling.n: too many",
        ),
        (
            worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_ENGINE, message="out of memory"),
            EngineFailed,
            "the engine of w1 failed: out of memory",
        ),
        (
            worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_DRAINING),
            WorkerLost,
            "worker w1 was lost: it is shutting down",
        ),
        (worker_pb2.Failure(message="odd"), EngineFailed, "the engine of w1 failed: odd"),
    ],
)
def test_a_workers_failure_becomes_an_outcome(
    failure: worker_pb2.Failure, kind: type[SluiceError], message: str
) -> None:
    error = from_failure(failure, "w1")
    assert type(error) is kind
    assert str(error) == message
