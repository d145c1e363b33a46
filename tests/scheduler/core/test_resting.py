"""Workers that an operator gives nothing more: what runs there goes on, and nothing else sees them."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import Decision, Lose, Reject, RejectReason, Start
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.request import Priority
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import LARGE, SINGLE, make_request
from tests.scheduler.core.ledgers import check_ledger


def started(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(each.request.request_id, each.worker_id) for each in decisions if isinstance(each, Start)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "finish", "withdraw", "rest", "wake", "report", "expire", "first_token"]),
        st.integers(0, 7),
        st.sampled_from([0.0, 0.05, 1.0, 7.0]),
    ),
    max_size=60,
)


@pytest.fixture(params=get_args(PolicyName))
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    policy: PolicyName = request.param
    made = Scheduler(make_policy(policy, 10.0), max_queued_requests=10)
    made.join("w0", SINGLE, 0.0)
    made.join("w1", SINGLE, 0.0)
    return made


def test_what_runs_on_a_resting_worker_ends_there_and_nothing_follows(scheduler: Scheduler) -> None:
    for name in "abc":
        scheduler.submit(make_request(name), 0.0)
    scheduler.rest("w0", 0.1)
    (resting,) = scheduler.resting_workers()
    assert resting.request_ids == ["a"]
    scheduler.first_token("a", 0.2)
    scheduler.report("w0", kv_cache_usage=0.1, running=1, waiting=0, preemptions=0, now=0.2, step_s=0.01)
    assert started(scheduler.finish("a", 9, 0.3)) == []
    check_ledger(resting)
    assert resting.request_ids == []
    assert started(scheduler.finish("b", 9, 0.4)) == [("c", "w1")]


def test_a_woken_worker_takes_what_waits(scheduler: Scheduler) -> None:
    scheduler.rest("w0", 0.0)
    for name in "ab":
        scheduler.submit(make_request(name), 0.0)
    assert started(scheduler.wake("w0", 0.1)) == [("b", "w0")]
    assert scheduler.resting_workers() == []


def test_resting_and_waking_again_change_nothing(scheduler: Scheduler) -> None:
    for _ in range(2):
        scheduler.rest("w0", 0.0)
    assert [each.worker_id for each in scheduler.workers()] == ["w1"]
    for _ in range(2):
        scheduler.wake("w0", 0.0)
    assert [each.worker_id for each in scheduler.workers()] == ["w1", "w0"]


def test_while_all_rest_what_waits_stays_and_what_comes_is_refused(scheduler: Scheduler) -> None:
    for name in "abc":
        scheduler.submit(make_request(name, priority=Priority.LOW), 0.0)
    scheduler.rest("w0", 0.1)
    scheduler.rest("w1", 0.1)
    (refusal,) = scheduler.submit(make_request("d"), 0.2)
    assert isinstance(refusal, Reject)
    assert refusal.reason is RejectReason.NO_WORKER
    assert scheduler.finish("a", 9, 0.3) == scheduler.withdraw("b", 0.3) == []
    assert scheduler.waiting == 1
    assert started(scheduler.wake("w1", 0.4)) == [("c", "w1")]


def test_a_resting_worker_can_be_lost_and_may_not_join_twice(scheduler: Scheduler) -> None:
    scheduler.submit(make_request("a"), 0.0)
    scheduler.rest("w0", 0.1)
    with pytest.raises(ValueError, match="w0"):
        scheduler.join("w0", SINGLE, 0.1)
    assert [each.request.request_id for each in scheduler.lose("w0", 0.2) if isinstance(each, Lose)] == ["a"]
    assert scheduler.resting_workers() == []
    with pytest.raises(KeyError):
        scheduler.wake("w0", 0.3)


@given(policy=st.sampled_from(get_args(PolicyName)), steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_nothing_starts_on_a_resting_worker_and_no_reservation_is_left(
    policy: PolicyName, steps: list[tuple[str, int, float]]
) -> None:
    scheduler, now, live = Scheduler(make_policy(policy, 10.0), max_queued_requests=4), 0.0, dict[str, None]()
    scheduler.join("w0", SINGLE, now)
    scheduler.join("w1", LARGE, now)
    for serial, (fact, number, passed_s) in enumerate(steps):
        now += passed_s
        worker_id, request_id = f"w{number % 2}", list(live)[number % len(live)] if live else "none"
        decisions = tell(scheduler, fact, worker_id, request_id, str(serial), now)
        resting = {worker.worker_id for worker in scheduler.resting_workers()}
        assert not resting & {worker for _, worker in started(decisions)}
        if fact == "submit":
            live[str(serial)] = None
        for worker in (*scheduler.workers(), *scheduler.resting_workers()):
            check_ledger(worker)
    for request_id in live:
        scheduler.withdraw(request_id, now)
    assert scheduler.waiting == 0
    assert all(not worker.request_ids for worker in (*scheduler.workers(), *scheduler.resting_workers()))


def tell(scheduler: Scheduler, fact: str, worker_id: str, request_id: str, new_id: str, now: float) -> list[Decision]:
    match fact:
        case "submit":
            priority = Priority(int(new_id) % 3)
            request = make_request(new_id, priority=priority, arrival_s=now, deadline_s=now + 30, prompt_tokens=50)
            return scheduler.submit(request, now)
        case "finish":
            return scheduler.finish(request_id, 9, now)
        case "withdraw" | "first_token" | "rest" | "wake":
            name = worker_id if fact in ("rest", "wake") else request_id
            decisions: list[Decision] = getattr(scheduler, fact)(name, now)
            return decisions
        case "report":
            return scheduler.report(
                worker_id, kv_cache_usage=0.1, running=1, waiting=0, preemptions=0, now=now, step_s=0.01, step_tokens=9
            )
        case _:
            return scheduler.expire(now)
