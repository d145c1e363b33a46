from dataclasses import replace

import pytest

from scheduler.core.fleet import Capacity, EngineLoad, Fleet, WorkerState
from tests.scheduler.core.builders import LARGE, make_request
from tests.scheduler.core.ledgers import check_ledger

SMALL = Capacity(max_sequences=4, kv_cache_tokens=1_000, max_step_tokens=100)


def busy_worker(capacity: Capacity, *, prefill_done: bool = True) -> WorkerState:
    """A worker that runs one request of one sequence with 26 KV tokens."""
    worker = WorkerState("w", capacity)
    worker.reserve(make_request("busy"), 16)
    if prefill_done:
        worker.first_token("busy")
    return worker


def test_a_reservation_takes_sequences_kv_tokens_and_prefill() -> None:
    worker = WorkerState("w", LARGE)
    worker.reserve(make_request("a", prompt_tokens=100, sequences=3), 20)
    assert (worker.sequences, worker.kv_tokens, worker.prefill_tokens) == (3, 160, 100)
    assert worker.request_ids == ["a"]


def test_the_first_token_frees_the_prefill_only_and_once() -> None:
    worker = WorkerState("w", LARGE)
    for name in ("a", "b"):
        worker.reserve(make_request(name, prompt_tokens=100), 20)
    for _ in range(2):
        worker.first_token("a")
        assert (worker.sequences, worker.kv_tokens, worker.prefill_tokens) == (2, 240, 100)


@pytest.mark.parametrize("prefill_done", [True, False])
def test_a_release_gives_everything_back(prefill_done: bool) -> None:
    worker = busy_worker(LARGE, prefill_done=prefill_done)
    worker.release("busy")
    assert (worker.sequences, worker.kv_tokens, worker.prefill_tokens) == (0, 0, 0)
    check_ledger(worker)


def test_sequences_are_given_out_up_to_the_engines_limit() -> None:
    worker = busy_worker(SMALL)
    assert worker.can_run(make_request(sequences=3), 16)
    assert not worker.can_run(make_request(sequences=4), 16)


def test_kv_tokens_are_given_out_up_to_97_percent() -> None:
    worker = busy_worker(replace(SMALL, max_step_tokens=5_000))
    left = 970 - 26
    assert worker.can_run(make_request(prompt_tokens=left - 2 * 16, sequences=2), 16)
    assert not worker.can_run(make_request(prompt_tokens=left - 2 * 16 + 1, sequences=2), 16)


def test_reported_kv_usage_counts_where_it_exceeds_the_ledger() -> None:
    worker = busy_worker(SMALL)
    worker.report(EngineLoad(kv_cache_usage=0.5), now=0.0)
    assert worker.free_kv_tokens == 470
    assert worker.can_run(make_request(prompt_tokens=454), 16)
    assert not worker.can_run(make_request(prompt_tokens=455), 16)
    worker.report(EngineLoad(kv_cache_usage=0.001), now=0.1)
    assert worker.free_kv_tokens == 970 - 26


def test_a_prompt_longer_than_a_step_starts_while_less_than_a_step_is_outstanding() -> None:
    worker = busy_worker(SMALL)
    worker.reserve(make_request("almost a step", prompt_tokens=99), 16)
    assert worker.can_run(make_request(prompt_tokens=300), 16)
    worker.reserve(make_request("one more", prompt_tokens=1), 16)
    assert not worker.can_run(make_request(prompt_tokens=1), 16)


def test_an_engine_that_is_steps_ahead_of_its_reports_is_given_their_prefill_too() -> None:
    worker = busy_worker(replace(SMALL, steps_ahead=2))
    worker.reserve(make_request("almost three steps", prompt_tokens=299), 16)
    assert worker.can_run(make_request(prompt_tokens=100), 16)
    worker.reserve(make_request("one more", prompt_tokens=1), 16)
    assert not worker.can_run(make_request(prompt_tokens=1), 16)


def test_an_idle_worker_takes_whatever_fits_and_nothing_else() -> None:
    worker = WorkerState("w", SMALL)
    worker.report(EngineLoad(kv_cache_usage=1.0), now=0.0)
    assert worker.can_run(make_request(prompt_tokens=999, sequences=4), 500)
    assert not worker.can_run(make_request(prompt_tokens=1_000), 1)
    assert not worker.can_run(make_request(sequences=5), 1)


def test_a_worker_holding_an_oversized_request_takes_no_second() -> None:
    worker = WorkerState("w", SMALL)
    worker.reserve(make_request("huge", prompt_tokens=990), 500)
    worker.first_token("huge")
    assert worker.free_kv_tokens < 0
    assert not worker.can_run(make_request(prompt_tokens=1), 1)


def test_a_preemption_shrinks_the_share_of_the_kv_cache() -> None:
    worker = WorkerState("w", SMALL)
    worker.report(EngineLoad(preemptions=0), now=0.0)
    worker.report(EngineLoad(preemptions=2), now=1.0)
    assert worker.kv_limit_tokens == int(0.97 * 0.9 * 1_000)


def test_a_fleet_lists_workers_in_order_of_joining() -> None:
    fleet = Fleet()
    for name in ("w2", "w1", "w3"):
        fleet.join(name, LARGE)
    fleet.lose("w1")
    fleet.join("w1", LARGE)
    assert [worker.worker_id for worker in fleet] == ["w2", "w3", "w1"]


def test_a_worker_joins_once() -> None:
    fleet = Fleet()
    fleet.join("w", LARGE)
    with pytest.raises(ValueError, match="w has joined already"):
        fleet.join("w", LARGE)


def test_losing_an_unknown_worker_changes_nothing() -> None:
    fleet = Fleet()
    fleet.join("w", LARGE)
    assert fleet.lose("other") is None
    assert len(fleet) == 1


def test_a_fleet_fits_what_one_of_its_workers_fits() -> None:
    fleet = Fleet()
    fleet.join("many", Capacity(max_sequences=8, kv_cache_tokens=100, max_step_tokens=10))
    fleet.join("long", Capacity(max_sequences=1, kv_cache_tokens=1_000, max_step_tokens=10))
    assert fleet.fits(make_request(sequences=8))
    assert fleet.fits(make_request(prompt_tokens=999))
    assert not fleet.fits(make_request(prompt_tokens=999, sequences=2))
