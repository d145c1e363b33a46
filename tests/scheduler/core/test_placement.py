from dataclasses import replace

from scheduler.core.fleet import Capacity, Fleet, WorkerState
from scheduler.core.placement import choose_soonest, choose_worker
from tests.scheduler.core.builders import LARGE, SINGLE, make_request


def fleet_of(**capacities: Capacity) -> Fleet:
    fleet = Fleet()
    for worker_id, capacity in capacities.items():
        fleet.join(worker_id, capacity)
    return fleet


def occupy(fleet: Fleet, worker_id: str, *, prompt_tokens: int, prefill_done: bool) -> None:
    worker = fleet.get(worker_id)
    assert worker is not None
    request_id = f"{worker_id}-{len(worker.request_ids)}"
    worker.reserve(make_request(request_id, prompt_tokens=prompt_tokens), 16)
    if prefill_done:
        worker.first_token(request_id)


def chosen(fleet: Fleet) -> str | None:
    worker: WorkerState | None = choose_worker(fleet, make_request(), 16)
    return worker.worker_id if worker else None


def test_no_worker_no_place() -> None:
    assert chosen(Fleet()) is None


def test_a_worker_without_credit_is_not_chosen() -> None:
    fleet = fleet_of(a=SINGLE, b=SINGLE)
    occupy(fleet, "a", prompt_tokens=1, prefill_done=True)
    assert chosen(fleet) == "b"
    occupy(fleet, "b", prompt_tokens=1, prefill_done=True)
    assert chosen(fleet) is None


def test_least_outstanding_prefill_comes_first() -> None:
    fleet = fleet_of(a=LARGE, b=LARGE)
    occupy(fleet, "a", prompt_tokens=50, prefill_done=False)
    occupy(fleet, "b", prompt_tokens=9_000, prefill_done=True)
    assert chosen(fleet) == "b"


def test_then_most_free_kv_cache() -> None:
    fleet = fleet_of(a=LARGE, b=LARGE)
    occupy(fleet, "a", prompt_tokens=500, prefill_done=True)
    occupy(fleet, "b", prompt_tokens=400, prefill_done=True)
    assert chosen(fleet) == "b"


def test_then_the_order_of_joining() -> None:
    assert chosen(fleet_of(b=LARGE, a=LARGE)) == "b"


def soonest(fleet: Fleet, **request: int) -> str | None:
    worker = choose_soonest(fleet, make_request(**request), 16)
    return worker.worker_id if worker else None


def test_workers_whose_first_token_comes_about_as_soon_share_the_sequences() -> None:
    fleet = fleet_of(a=LARGE, b=LARGE)
    for worker, prefill_token_s in zip(fleet, (25e-6, 26e-6), strict=True):
        worker.prefill_token_s = prefill_token_s
    occupy(fleet, "a", prompt_tokens=50, prefill_done=True)
    assert soonest(fleet, prompt_tokens=50) == "b"


def test_a_worker_that_is_sooner_by_more_than_that_is_chosen_however_many_it_serves() -> None:
    fleet = fleet_of(a=LARGE, b=LARGE)
    for worker, prefill_token_s in zip(fleet, (25e-6, 100e-6), strict=True):
        worker.prefill_token_s = prefill_token_s
    occupy(fleet, "a", prompt_tokens=50, prefill_done=True)
    assert soonest(fleet, prompt_tokens=500) == "a"


SHORT, LONG = replace(LARGE, context_tokens=1_000), replace(LARGE, context_tokens=50_000)


def test_a_shorter_context_is_used_first_and_one_that_is_too_short_never() -> None:
    fleet = fleet_of(long=LONG, short=SHORT)
    assert soonest(fleet, prompt_tokens=500, max_tokens=500) == chosen(fleet) == "short"
    assert soonest(fleet, prompt_tokens=500, max_tokens=501) == "long"
    occupy(fleet, "short", prompt_tokens=900, prefill_done=True)
    assert soonest(fleet, prompt_tokens=500, max_tokens=500) == "short"
    assert soonest(fleet, prompt_tokens=1_000, max_tokens=1) == "long"


def test_a_longer_context_helps_out_while_the_shorter_ones_are_full() -> None:
    fleet = fleet_of(long=LONG, short=replace(SHORT, max_sequences=1))
    occupy(fleet, "short", prompt_tokens=10, prefill_done=True)
    assert soonest(fleet, prompt_tokens=10, max_tokens=10) == "long"
