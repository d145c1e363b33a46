import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.queue import WaitingQueue
from scheduler.core.request import Priority, Request
from tests.scheduler.core.builders import make_request


def by_arrival(request: Request) -> float:
    return request.arrival_s


@pytest.fixture
def queue() -> WaitingQueue:
    return WaitingQueue(by_arrival)


def ids(queue: WaitingQueue) -> list[str]:
    return [request.request_id for request in queue]


def test_an_empty_queue_has_no_head_and_no_deadline(queue: WaitingQueue) -> None:
    assert (len(queue), queue.head(), queue.next_deadline_s()) == (0, None, None)


def test_the_lowest_key_is_served_first(queue: WaitingQueue) -> None:
    for name, arrival_s in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        queue.push(make_request(name, arrival_s=arrival_s))
    assert ids(queue) == ["a", "b", "c"]
    head = queue.head()
    assert head is not None
    assert head.request_id == "a"


def test_equal_keys_are_served_in_order_of_joining(queue: WaitingQueue) -> None:
    for name in "zay":
        queue.push(make_request(name, arrival_s=1.0))
    assert ids(queue) == ["z", "a", "y"]


def test_the_key_is_computed_once_when_a_request_joins() -> None:
    keys = iter([5.0, 1.0])
    queue = WaitingQueue(lambda _: next(keys))
    queue.push(make_request("a"))
    queue.push(make_request("b"))
    assert ids(queue) == ["b", "a"]
    assert queue.position("a") == 1
    queue.remove("a")
    assert ids(queue) == ["b"]


def test_a_request_is_removed_from_the_middle(queue: WaitingQueue) -> None:
    for name in "abc":
        queue.push(make_request(name, arrival_s=1.0))
    assert queue.remove("b") == make_request("b", arrival_s=1.0)
    assert ids(queue) == ["a", "c"]
    assert "b" not in queue


def test_removing_what_is_not_there_changes_nothing(queue: WaitingQueue) -> None:
    queue.push(make_request("a"))
    assert queue.remove("b") is None
    assert ids(queue) == ["a"]


def test_a_removed_id_may_join_again(queue: WaitingQueue) -> None:
    queue.push(make_request("a", arrival_s=1.0))
    queue.remove("a")
    queue.push(make_request("b", arrival_s=1.0))
    queue.push(make_request("a", arrival_s=1.0))
    assert ids(queue) == ["b", "a"]


def test_position_is_the_number_of_requests_served_before(queue: WaitingQueue) -> None:
    for name, arrival_s in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        queue.push(make_request(name, arrival_s=arrival_s))
    assert [queue.position(name) for name in "abc"] == [0, 1, 2]


def test_the_position_of_what_is_not_there_is_a_key_error(queue: WaitingQueue) -> None:
    with pytest.raises(KeyError):
        queue.position("a")


def test_requests_expire_when_their_deadline_comes_earliest_first(queue: WaitingQueue) -> None:
    for name, deadline_s in (("c", 3.0), ("b", 2.0), ("a", 1.0)):
        queue.push(make_request(name, deadline_s=deadline_s))
    assert queue.next_deadline_s() == 1.0
    assert [request.request_id for request in queue.remove_expired(2.0)] == ["a", "b"]
    assert ids(queue) == ["c"]
    assert queue.next_deadline_s() == 3.0


def test_a_removed_request_does_not_expire(queue: WaitingQueue) -> None:
    queue.push(make_request("a", deadline_s=1.0))
    queue.remove("a")
    assert queue.next_deadline_s() is None
    assert queue.remove_expired(5.0) == []


def test_waiting_requests_are_counted_by_class(queue: WaitingQueue) -> None:
    queue.push(make_request("a", priority=Priority.LOW))
    queue.push(make_request("b", priority=Priority.LOW, deadline_s=1.0))
    queue.push(make_request("c", priority=Priority.HIGH))
    queue.remove_expired(1.0)
    assert queue.counts() == {"high": 1, "low": 1}


def test_a_newcomer_is_told_the_position_it_would_have(queue: WaitingQueue) -> None:
    for name, arrival_s in (("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 3.0)):
        queue.push(make_request(name, arrival_s=arrival_s))
    newcomer = make_request("new", arrival_s=2.0)
    position = queue.position_for(newcomer)
    queue.push(newcomer)
    assert position == queue.position("new") == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["push", "remove", "expire"]))))
def test_the_queue_agrees_with_a_plain_sorted_list(steps: list[tuple[int, int, str]]) -> None:
    queue = WaitingQueue(by_arrival)
    plain: list[Request] = []
    for number, (arrival_s, deadline_s, what) in enumerate(steps):
        if what == "push":
            request = make_request(str(number), arrival_s=arrival_s, deadline_s=deadline_s)
            queue.push(request)
            plain.append(request)
            plain.sort(key=by_arrival)
        elif what == "remove" and plain:
            queue.remove(plain.pop(arrival_s % len(plain)).request_id)
        elif what == "expire":
            assert {request.request_id for request in queue.remove_expired(deadline_s)} == {
                request.request_id for request in plain if request.deadline_s <= deadline_s
            }
            plain = [request for request in plain if request.deadline_s > deadline_s]
        assert list(queue) == plain
        assert [queue.position(request.request_id) for request in plain] == list(range(len(plain)))
        assert queue.next_deadline_s() == min((request.deadline_s for request in plain), default=None)
