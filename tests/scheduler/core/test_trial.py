"""Workers on trial after a fault: one request at a time, while others can be trusted."""

from typing import get_args

import pytest

from scheduler.core.decisions import Decision, Start
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import LARGE, SINGLE, make_request


@pytest.fixture(params=get_args(PolicyName))
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    """A scheduler with a trusted worker that is full, and one on trial with room for all."""
    policy: PolicyName = request.param
    made = Scheduler(make_policy(policy, 10.0), max_queued_requests=10)
    made.join("trusted", SINGLE, 0.0)
    made.join("tried", LARGE, 0.0, on_trial=True)
    for name in "abcd":
        made.submit(make_request(name), 0.0)
    return made


def running(scheduler: Scheduler, worker_id: str) -> int:
    worker = scheduler.worker(worker_id)
    return len(worker.request_ids) if worker else 0


def started(decisions: list[Decision]) -> list[str]:
    return [each.worker_id for each in decisions if isinstance(each, Start)]


def test_it_gets_one_request_and_the_next_when_that_is_over(scheduler: Scheduler) -> None:
    tried = scheduler.worker("tried")
    assert tried is not None
    assert (running(scheduler, "tried"), scheduler.waiting) == (1, 2)
    scheduler.first_token(tried.request_ids[0], 0.1)
    assert running(scheduler, "tried") == 1
    assert started(scheduler.withdraw(tried.request_ids[0], 0.2)) == ["tried"]
    assert running(scheduler, "tried") == 1


def test_trusted_it_takes_all_that_waits(scheduler: Scheduler) -> None:
    assert started(scheduler.trust("tried", 0.1)) == ["tried", "tried"]
    assert started(scheduler.trust("nobody", 0.1)) == []


def test_where_no_worker_is_trusted_it_takes_all_that_it_can(scheduler: Scheduler) -> None:
    scheduler.lose("trusted", 0.1)
    assert running(scheduler, "tried") == 3
    scheduler.join("trusted", SINGLE, 0.2)
    scheduler.submit(make_request("e"), 0.3)
    scheduler.submit(make_request("f"), 0.3)
    assert running(scheduler, "tried") == 3


def test_a_trusted_worker_that_rests_protects_nobody(scheduler: Scheduler) -> None:
    scheduler.rest("trusted", 0.1)
    assert running(scheduler, "tried") == 3
