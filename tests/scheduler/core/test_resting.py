"""Workers that an operator gives nothing more: what runs there goes on, and nothing else sees them."""

import pytest

from scheduler.core.decisions import Decision, Lose, Reject, RejectReason, Start
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.request import Priority
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import SINGLE, make_request
from tests.scheduler.core.ledgers import check_ledger


def started(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(each.request.request_id, each.worker_id) for each in decisions if isinstance(each, Start)]


@pytest.fixture(params=["feasible-edf", "strict-priority", "fcfs"])
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
