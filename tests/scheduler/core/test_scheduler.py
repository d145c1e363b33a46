import pytest

from scheduler.core.decisions import Decision, Expire, Lose, Reject, RejectReason, Start, Wait
from scheduler.core.fleet import Capacity
from scheduler.core.policy import Fcfs
from scheduler.core.request import Priority
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import LARGE, SINGLE, make_request
from tests.scheduler.core.conftest import MakeScheduler


def report(
    scheduler: Scheduler, worker_id: str, *, preemptions: int = 0, usage: float = 0.0, now: float
) -> list[Decision]:
    return scheduler.report(worker_id, kv_cache_usage=usage, running=0, waiting=0, preemptions=preemptions, now=now)


def test_a_request_starts_in_the_call_that_submits_it(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    a = make_request("a")
    assert scheduler.submit(a, now=1.0) == [Start(a, "w")]


def test_a_request_that_cannot_start_waits_in_its_position(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    low = make_request("low", priority=Priority.LOW, arrival_s=1.0)
    high = make_request("high", priority=Priority.HIGH, arrival_s=2.0)
    scheduler.submit(make_request("running"), now=0.0)
    assert scheduler.submit(low, now=1.0) == [Wait(low, 0, None)]
    assert scheduler.submit(high, now=2.0) == [Wait(high, 0, None)]
    assert scheduler.place("low") == Wait(low, 1, None)
    assert scheduler.waiting_by_class() == {"high": 1, "normal": 0, "low": 1}


@pytest.mark.parametrize("end", ["finish", "withdraw"])
def test_the_head_starts_in_the_call_that_frees_its_place(scheduler: Scheduler, end: str) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b = make_request("b")
    scheduler.submit(b, now=0.0)
    decisions = scheduler.finish("a", 10, now=1.0) if end == "finish" else scheduler.withdraw("a", now=1.0)
    assert decisions == [Start(b, "w")]


def test_the_first_token_lets_the_next_prefill_start(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, now=0.0)
    scheduler.submit(make_request("a", prompt_tokens=LARGE.max_step_tokens), now=0.0)
    b = make_request("b")
    scheduler.submit(b, now=0.0)
    assert scheduler.first_token("a", now=0.5) == [Start(b, "w")]


def test_a_joining_worker_takes_the_head_at_once(scheduler: Scheduler) -> None:
    scheduler.join("w1", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b = make_request("b")
    scheduler.submit(b, now=0.0)
    assert scheduler.join("w2", SINGLE, now=1.0) == [Start(b, "w2")]


def test_a_report_of_a_freer_kv_cache_starts_the_head(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    report(scheduler, "w", usage=0.99, now=0.1)
    b = make_request("b")
    assert scheduler.submit(b, now=0.2) == [Wait(b, 0, None)]
    assert report(scheduler, "w", usage=0.5, now=0.3) == [Start(b, "w")]


def test_nothing_passes_a_head_that_has_no_credit(scheduler: Scheduler) -> None:
    scheduler.join("w", Capacity(max_sequences=4, kv_cache_tokens=1_000, max_step_tokens=2_048), now=0.0)
    scheduler.submit(make_request("a", prompt_tokens=500), now=0.0)
    long, short = make_request("long", prompt_tokens=600), make_request("short")
    scheduler.submit(long, now=0.0)
    assert scheduler.submit(short, now=0.0) == [Wait(short, 1, None)]
    assert scheduler.finish("a", 10, now=1.0) == [Start(long, "w"), Start(short, "w")]


def test_answers_of_finished_requests_teach_what_later_ones_reserve(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, now=0.0)
    scheduler.submit(make_request("a", sequences=2), now=0.0)
    scheduler.finish("a", 100, now=1.0)
    scheduler.submit(make_request("b", prompt_tokens=10), now=1.0)
    (worker,) = scheduler.workers()
    assert worker.kv_tokens == 10 + 50


def test_a_withdrawn_answer_teaches_nothing(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    scheduler.withdraw("a", now=1.0)
    scheduler.submit(make_request("b", prompt_tokens=10), now=1.0)
    (worker,) = scheduler.workers()
    assert worker.kv_tokens == 10 + 16


def test_a_withdrawn_request_leaves_the_queue_for_good(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    scheduler.submit(make_request("b", deadline_s=5.0), now=0.0)
    for _ in range(2):
        assert scheduler.withdraw("b", now=1.0) == []
    assert scheduler.finish("a", 10, now=2.0) == []
    assert scheduler.expire(now=9.0) == []


def test_withdrawing_twice_releases_once(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    scheduler.submit(make_request("b"), now=0.0)
    scheduler.withdraw("a", now=1.0)
    scheduler.withdraw("a", now=1.0)
    (worker,) = scheduler.workers()
    assert (worker.request_ids, worker.sequences) == (["b"], 1)


def test_facts_about_the_unknown_change_nothing(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b = make_request("b")
    scheduler.submit(b, now=0.0)
    assert scheduler.first_token("b", now=1.0) == []
    assert scheduler.finish("b", 10, now=1.0) == []
    assert scheduler.finish("x", 10, now=1.0) == []
    assert scheduler.lose("x", now=1.0) == []
    assert report(scheduler, "x", now=1.0) == []
    assert scheduler.place("b") == Wait(b, 0, None)


def test_a_request_expires_in_the_queue_when_its_deadline_comes(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a", deadline_s=1.0), now=0.0)
    b = make_request("b", deadline_s=5.0)
    scheduler.submit(b, now=0.0)
    assert scheduler.next_expiry() == 5.0
    assert scheduler.expire(now=4.9) == []
    assert scheduler.expire(now=5.0) == [Expire(b)]
    assert scheduler.next_expiry() is None


def test_an_expired_head_never_starts_and_lets_the_next_one_start(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b, c = make_request("b", deadline_s=5.0), make_request("c")
    scheduler.submit(b, now=0.0)
    scheduler.submit(c, now=0.0)
    assert scheduler.finish("a", 10, now=5.0) == [Expire(b), Start(c, "w")]


def test_a_full_queue_refuses_with_the_time_in_which_it_drains(make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(max_queued_requests=2)
    scheduler.join("w", SINGLE, now=0.0)
    for number in range(3):
        scheduler.submit(make_request(str(number)), now=0.0)
    scheduler.finish("0", 10, now=2.0)
    scheduler.submit(make_request("3"), now=2.0)
    late = make_request("late")
    (reject,) = scheduler.submit(late, now=2.0)
    assert isinstance(reject, Reject)
    assert (reject.request, reject.reason) == (late, RejectReason.QUEUE_FULL)
    assert reject.retry_after_s == pytest.approx(6.0, rel=0.1)
    assert scheduler.waiting_by_class()["normal"] == 2


def test_a_wait_is_estimated_from_recent_starts(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    for number in range(6):
        scheduler.submit(make_request(str(number)), now=0.0)
    for number in range(3):
        scheduler.finish(str(number), 10, now=2.0 * (number + 1))
    place = scheduler.place("5")
    assert place.position == 1
    assert place.estimated_wait_s == pytest.approx(4.0, rel=0.2)


def test_a_full_queue_lets_in_what_can_start_at_once(make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(max_queued_requests=1)
    scheduler.join("w", Capacity(max_sequences=4, kv_cache_tokens=1_000, max_step_tokens=2_048), now=0.0)
    scheduler.submit(make_request("a", prompt_tokens=500), now=0.0)
    scheduler.submit(make_request("long", prompt_tokens=600), now=0.0)
    urgent = make_request("urgent", priority=Priority.HIGH)
    assert scheduler.submit(urgent, now=0.0) == [Start(urgent, "w")]
    behind = make_request("behind")
    assert scheduler.submit(behind, now=0.0) == [Reject(behind, RejectReason.QUEUE_FULL, 1.0)]


def test_with_no_queue_a_request_starts_at_once_or_is_refused(make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(max_queued_requests=0)
    scheduler.join("w", SINGLE, now=0.0)
    a, b = make_request("a"), make_request("b")
    assert scheduler.submit(a, now=0.0) == [Start(a, "w")]
    assert scheduler.submit(b, now=0.0) == [Reject(b, RejectReason.QUEUE_FULL, 1.0)]


def test_a_place_that_an_expiry_frees_is_given_to_the_arrival(make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(max_queued_requests=1)
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b, c = make_request("b", deadline_s=1.0), make_request("c")
    scheduler.submit(b, now=0.0)
    assert scheduler.submit(c, now=1.0) == [Expire(b), Wait(c, 0, None)]


def test_a_refused_request_is_forgotten(scheduler: Scheduler) -> None:
    a = make_request("a")
    assert scheduler.submit(a, now=0.0) == [Reject(a, RejectReason.NO_WORKER, 1.0)]
    assert scheduler.join("w", LARGE, now=0.5) == []
    assert scheduler.submit(a, now=1.0) == [Start(a, "w")]


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_an_id_is_submitted_once(scheduler: Scheduler, state: str) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("running"), now=0.0)
    scheduler.submit(make_request("waiting"), now=0.0)
    with pytest.raises(ValueError, match=f"{state} has been submitted already"):
        scheduler.submit(make_request(state), now=1.0)


def test_requests_on_a_lost_worker_are_lost_and_the_waiting_stay(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    a, b = make_request("a"), make_request("b", deadline_s=9.0)
    scheduler.submit(a, now=0.0)
    scheduler.submit(b, now=0.0)
    assert scheduler.lose("w", now=1.0) == [Lose(a, "w")]
    assert scheduler.place("b") == Wait(b, 0, None)
    assert scheduler.join("w", SINGLE, now=2.0) == [Start(b, "w")]


def test_those_who_wait_for_a_lost_worker_expire_when_none_comes_back(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    b = make_request("b", deadline_s=9.0)
    scheduler.submit(b, now=0.0)
    scheduler.lose("w", now=1.0)
    assert scheduler.expire(now=9.0) == [Expire(b)]


def test_a_lost_request_may_be_submitted_again(scheduler: Scheduler) -> None:
    scheduler.join("w1", SINGLE, now=0.0)
    scheduler.join("w2", SINGLE, now=0.0)
    a = make_request("a")
    scheduler.submit(a, now=0.0)
    scheduler.lose("w1", now=1.0)
    assert scheduler.submit(a, now=1.0) == [Start(a, "w2")]


SMALL = Capacity(max_sequences=1, kv_cache_tokens=100, max_step_tokens=100)


def test_what_no_remaining_worker_can_hold_is_refused_and_blocks_nobody(scheduler: Scheduler) -> None:
    scheduler.join("large", SINGLE, now=0.0)
    on_large = make_request("on large", prompt_tokens=200)
    scheduler.submit(on_large, now=0.0)
    scheduler.join("small", SMALL, now=0.0)
    scheduler.submit(make_request("on small"), now=0.0)
    long, short = make_request("long", prompt_tokens=500), make_request("short")
    scheduler.submit(long, now=0.0)
    scheduler.submit(short, now=0.0)
    assert scheduler.lose("large", now=1.0) == [Lose(on_large, "large"), Reject(long, RejectReason.NO_WORKER, 1.0)]
    assert scheduler.finish("on small", 10, now=2.0) == [Start(short, "small")]


def test_what_a_returning_fleet_cannot_hold_is_refused_and_blocks_nobody(scheduler: Scheduler) -> None:
    scheduler.join("large", SINGLE, now=0.0)
    scheduler.submit(make_request("on large"), now=0.0)
    long, short = make_request("long", prompt_tokens=500), make_request("short")
    scheduler.submit(long, now=0.0)
    scheduler.submit(short, now=0.0)
    scheduler.lose("large", now=1.0)
    decisions = scheduler.join("small", SMALL, now=2.0)
    assert decisions == [Reject(long, RejectReason.NO_WORKER, 1.0), Start(short, "small")]


def test_requests_spread_over_the_workers(scheduler: Scheduler) -> None:
    for name in ("w1", "w2", "w3"):
        scheduler.join(name, LARGE, now=0.0)
    decisions = [scheduler.submit(make_request(str(number)), now=0.0)[0] for number in range(6)]
    assert [decision.worker_id for decision in decisions if isinstance(decision, Start)] == ["w1", "w2", "w3"] * 2


def test_a_preempting_worker_is_given_less(scheduler: Scheduler) -> None:
    scheduler.join("w", Capacity(max_sequences=4, kv_cache_tokens=1_000, max_step_tokens=2_048), now=0.0)
    scheduler.submit(make_request("a", prompt_tokens=400), now=0.0)
    report(scheduler, "w", preemptions=0, now=0.0)
    report(scheduler, "w", preemptions=1, now=1.0)
    b = make_request("b", prompt_tokens=500)
    assert scheduler.submit(b, now=1.0) == [Wait(b, 0, None)]
    assert report(scheduler, "w", preemptions=1, now=9.0) == [Start(b, "w")]


def test_aging_lets_an_old_low_request_pass_a_new_high_one(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    low = make_request("low", priority=Priority.LOW, arrival_s=0.0)
    scheduler.submit(low, now=0.0)
    scheduler.submit(make_request("high", priority=Priority.HIGH, arrival_s=20.0), now=20.0)
    assert scheduler.finish("a", 10, now=21.0) == [Start(low, "w")]


def test_the_policy_decides_the_order(make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(Fcfs())
    scheduler.join("w", SINGLE, now=0.0)
    scheduler.submit(make_request("a"), now=0.0)
    low = make_request("low", priority=Priority.LOW, arrival_s=1.0)
    scheduler.submit(low, now=1.0)
    scheduler.submit(make_request("high", priority=Priority.HIGH, arrival_s=2.0), now=2.0)
    assert scheduler.finish("a", 10, now=3.0) == [Start(low, "w")]
