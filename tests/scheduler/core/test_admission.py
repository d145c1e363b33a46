from scheduler.core.admission import RETRY_AFTER_UNKNOWN_S, refuse_arrival, refuse_overflow
from scheduler.core.decisions import Reject, RejectReason
from scheduler.core.fleet import Capacity, Fleet
from tests.scheduler.core.builders import LARGE, make_request


def fleet_of(*capacities: Capacity) -> Fleet:
    fleet = Fleet()
    for number, capacity in enumerate(capacities):
        fleet.join(f"w{number}", capacity)
    return fleet


def test_what_fits_and_is_in_time_is_taken() -> None:
    assert refuse_arrival(make_request(deadline_s=5.0), fleet_of(LARGE), now=4.9) is None


def test_a_deadline_passed_on_arrival_is_refused_for_good() -> None:
    request = make_request(deadline_s=5.0)
    assert refuse_arrival(request, fleet_of(LARGE), now=5.0) == Reject(request, RejectReason.DEADLINE_PASSED, 1.0)


def test_without_any_worker_a_request_is_refused_with_a_retry() -> None:
    request = make_request()
    assert refuse_arrival(request, Fleet(), now=0.0) == Reject(request, RejectReason.NO_WORKER, RETRY_AFTER_UNKNOWN_S)


def test_what_no_worker_can_ever_hold_is_refused_for_good() -> None:
    fleet = fleet_of(Capacity(2, 100, 10), Capacity(4, 50, 10))
    for request in (make_request(prompt_tokens=100), make_request(prompt_tokens=60, sequences=3)):
        assert refuse_arrival(request, fleet, now=0.0) == Reject(request, RejectReason.TOO_LARGE, None)
    for request in (make_request(prompt_tokens=99, sequences=2), make_request(prompt_tokens=49, sequences=4)):
        assert refuse_arrival(request, fleet, now=0.0) is None


def test_overflow_is_told_to_come_back_when_the_queue_has_drained() -> None:
    request = make_request()
    assert refuse_overflow(request, 2.5) == Reject(request, RejectReason.QUEUE_FULL, 2.5)
    assert refuse_overflow(request, None) == Reject(request, RejectReason.QUEUE_FULL, RETRY_AFTER_UNKNOWN_S)
