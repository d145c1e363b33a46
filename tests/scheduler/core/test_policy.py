from collections.abc import Iterable

from scheduler.core.policy import Fcfs, Order, StrictPriority, make_policy
from scheduler.core.queue import WaitingQueue
from scheduler.core.request import Priority, Request
from tests.scheduler.core.builders import make_request


def order(policy: Order, requests: Iterable[Request]) -> list[str]:
    queue = WaitingQueue(policy.key)
    for request in requests:
        queue.push(request)
    return [request.request_id for request in queue]


def test_strict_priority_serves_the_more_urgent_first() -> None:
    requests = [make_request(priority.name, priority=priority) for priority in reversed(Priority)]
    assert order(StrictPriority(10.0), requests) == ["HIGH", "NORMAL", "LOW"]


def test_strict_priority_is_first_come_first_served_inside_a_priority() -> None:
    requests = [make_request(name, priority=Priority.LOW, arrival_s=at) for name, at in (("b", 2.0), ("a", 1.0))]
    assert order(StrictPriority(10.0), requests) == ["a", "b"]


def test_low_is_passed_only_by_high_that_arrives_within_two_aging_times() -> None:
    requests = [
        make_request("low", priority=Priority.LOW, arrival_s=0.0),
        make_request("high, within", priority=Priority.HIGH, arrival_s=19.9),
        make_request("high, later", priority=Priority.HIGH, arrival_s=20.0),
    ]
    assert order(StrictPriority(10.0), requests) == ["high, within", "low", "high, later"]


def test_a_priority_is_passed_by_the_next_one_only_within_one_aging_time() -> None:
    requests = [
        make_request("low", priority=Priority.LOW, arrival_s=0.0),
        make_request("normal, within", priority=Priority.NORMAL, arrival_s=9.9),
        make_request("normal, later", priority=Priority.NORMAL, arrival_s=10.0),
    ]
    assert order(StrictPriority(10.0), requests) == ["normal, within", "low", "normal, later"]


def test_fcfs_ignores_priorities() -> None:
    requests = [
        make_request("low", priority=Priority.LOW, arrival_s=1.0),
        make_request("high", priority=Priority.HIGH, arrival_s=2.0),
    ]
    assert order(Fcfs(), requests) == ["low", "high"]


def test_policies_are_made_by_name() -> None:
    high = make_request(priority=Priority.HIGH)
    low = make_request(priority=Priority.LOW, arrival_s=-1.0)
    strict, fcfs = make_policy("strict-priority", 3.0), make_policy("fcfs", 3.0)
    assert isinstance(strict, StrictPriority)
    assert isinstance(fcfs, Fcfs)
    assert (strict.key(high), strict.key(low)) == (0.0, 5.0)
    assert (fcfs.key(high), fcfs.key(low)) == (0.0, -1.0)
