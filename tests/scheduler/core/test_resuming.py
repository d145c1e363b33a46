"""Requests that had started and go on elsewhere."""

import pytest

from scheduler.core.decisions import Decision, Expire, Lose, Reject, RejectReason, Start
from scheduler.core.fleet import Capacity
from scheduler.core.policy import Fcfs
from scheduler.core.quota import Quota, Quotas
from scheduler.core.request import Request
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import LARGE, SINGLE, make_request, resumption

WIDE = SINGLE
NARROW = Capacity(max_sequences=1, kv_cache_tokens=200, max_step_tokens=2_048)


def started(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(each.request.request_id, each.worker_id) for each in decisions if isinstance(each, Start)]


def lost(scheduler: Scheduler, worker_id: str) -> list[Request]:
    return [each.request for each in scheduler.lose(worker_id, 1.0) if isinstance(each, Lose)]


@pytest.fixture
def scheduler() -> Scheduler:
    made = Scheduler(Fcfs(), max_queued_requests=2)
    made.join("w0", SINGLE, 0.0)
    made.join("w1", SINGLE, 0.0)
    return made


def test_what_had_started_goes_before_all_that_waits(scheduler: Scheduler) -> None:
    for name in "abcd":
        scheduler.submit(make_request(name), 0.0)
    (request,) = lost(scheduler, "w0")
    assert started(scheduler.resume(resumption(request, 40), 1.0)) == []
    assert started(scheduler.finish("b", 9, 2.0)) == [("a", "w1")]
    assert started(scheduler.finish("a", 60, 3.0)) == [("c", "w1")]


def test_a_full_queue_does_not_keep_it_out(scheduler: Scheduler) -> None:
    for name in "abcd":
        scheduler.submit(make_request(name), 0.0)
    (request,) = lost(scheduler, "w0")
    scheduler.resume(resumption(request, 40), 1.0)
    assert scheduler.waiting == 3
    (refusal,) = scheduler.submit(make_request("e"), 1.0)
    assert isinstance(refusal, Reject)
    assert refusal.reason is RejectReason.QUEUE_FULL


def test_without_any_worker_it_waits_until_its_deadline(scheduler: Scheduler) -> None:
    scheduler.submit(make_request("a", deadline_s=9.0), 0.0)
    (request,) = lost(scheduler, "w0")
    scheduler.lose("w1", 1.0)
    scheduler.resume(resumption(request, 40), 1.0)
    assert scheduler.next_expiry() == 9.0
    assert [type(each) for each in scheduler.expire(9.0)] == [Expire]
    assert scheduler.waiting == 0


def test_one_that_no_worker_there_can_hold_waits_for_one_that_can_and_holds_up_nobody() -> None:
    scheduler = Scheduler(Fcfs(), max_queued_requests=2)
    scheduler.join("wide", WIDE, 0.0)
    scheduler.join("narrow", NARROW, 0.0)
    scheduler.submit(make_request("small"), 0.0)
    scheduler.submit(make_request("large", prompt_tokens=500), 0.0)
    scheduler.finish("small", 1, 0.5)
    (request,) = lost(scheduler, "wide") or lost(scheduler, "narrow")
    assert started(scheduler.resume(resumption(request, 40), 1.0)) == []
    assert started(scheduler.submit(make_request("next"), 1.0)) == [("next", "narrow")]
    assert started(scheduler.join("wide", WIDE, 2.0)) == [("large", "wide")]


def test_what_its_worker_would_not_take_gives_its_room_there_back() -> None:
    scheduler = Scheduler(Fcfs(), max_queued_requests=2)
    scheduler.join("w0", LARGE, 0.0)
    request = make_request("a", prompt_tokens=50)
    scheduler.submit(request, 0.0)
    assert started(scheduler.resume(resumption(request, 0), 1.0)) == [("a", "w0")]
    (worker,) = scheduler.workers()
    assert (worker.sequences, worker.prefill_tokens) == (1, 50)


def test_a_tenant_pays_once_for_an_answer_in_two_parts_and_its_length_is_learnt_whole() -> None:
    scheduler = Scheduler(Fcfs(), max_queued_requests=2, quotas=Quotas({"t": Quota(tokens_per_minute=1_000)}))
    scheduler.join("w0", LARGE, 0.0)
    scheduler.submit(make_request("a", prompt_tokens=100, tenant="t"), 0.0)
    (request,) = lost(scheduler, "w0")
    scheduler.join("w1", LARGE, 1.0)
    scheduler.resume(resumption(request, 40), 1.0)
    scheduler.finish("a", 60, 1.0)
    assert scheduler._output_length.expected_tokens(make_request("b")) == 60
    decisions = scheduler.submit(make_request("b", prompt_tokens=900, tenant="t"), 1.0)
    assert isinstance(decisions[-1], Reject)  # of a thousand tokens 160 are used
    assert started(scheduler.submit(make_request("c", prompt_tokens=780, tenant="t"), 1.0)) == [("c", "w1")]


def test_what_waits_already_cannot_be_resumed(scheduler: Scheduler) -> None:
    for name in "abc":
        scheduler.submit(make_request(name), 0.0)
    with pytest.raises(ValueError, match="waits already"):
        scheduler.resume(resumption(make_request("c"), 0), 1.0)
