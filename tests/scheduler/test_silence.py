from math import ceil

import pytest

from scheduler.core.fleet import WorkerState
from scheduler.silence import LATE_S, STALL_S, STALL_TOKEN_S, TICK_S, Silence, late_s
from tests.scheduler.core.builders import LARGE, make_request

STEP_S = 0.2


@pytest.fixture
def worker() -> WorkerState:
    """A worker that has been seen to take 0.2 s for each step of one sequence."""
    worker = WorkerState("w0", LARGE)
    worker.reserve(make_request("a", prompt_tokens=10), 100)
    worker.first_token("a")
    for _ in range(200):
        worker.report_step(STEP_S, 1, worker.context_tokens, 1)
    return worker


def ticks_until_late(silence: Silence, worker: WorkerState | None) -> int:
    ticks = 1
    while not silence.tick(worker):
        ticks += 1
    return ticks


def test_silence_may_last_three_steps_and_half_a_second(worker: WorkerState) -> None:
    silence = Silence()
    ticks = ticks_until_late(silence, worker)
    assert silence.limit_s == pytest.approx(3 * STEP_S + LATE_S, rel=0.1)
    assert ticks == ceil(silence.limit_s / TICK_S)


def test_outstanding_prefill_makes_the_step_longer_that_is_waited_for_up_to_a_whole_one(worker: WorkerState) -> None:
    silence = Silence()
    silence.tick(worker)
    limits = [silence.limit_s]
    for name, prompt_tokens in (("b", 1_000), ("c", 20_000), ("d", 20_000)):
        worker.reserve(make_request(name, prompt_tokens=prompt_tokens), 100)
        silence.tick(worker)
        limits.append(silence.limit_s)
    assert limits[0] < limits[1] < limits[2]
    assert limits[3] - limits[2] == pytest.approx(3 * worker.step_model.per_sequence_s)


def test_a_step_of_more_tokens_than_any_before_is_waited_for_longer(worker: WorkerState) -> None:
    worker.reserve(make_request("b", prompt_tokens=2_000), 100)
    before_s = late_s(worker)
    steps = worker.step_model
    assert before_s > 3 * steps.step_s(worker.step_tokens, worker.context_tokens, 2) + LATE_S
    steps.observe(STEP_S, 2_000, worker.context_tokens, 2)
    expected_s = steps.step_s(worker.step_tokens, worker.context_tokens, 2)
    assert late_s(worker) == pytest.approx(3 * expected_s + LATE_S, rel=0.01)


def test_a_worker_is_waited_for_longer_while_its_engine_may_still_compile() -> None:
    worker = WorkerState("w0", LARGE)
    assert ticks_until_late(Silence(), worker) == pytest.approx(STALL_S / TICK_S, abs=1)
    idle_s = late_s(worker)
    worker.reserve(make_request("a", prompt_tokens=2_000), 100)
    assert late_s(worker) == idle_s + 2_000 * STALL_TOKEN_S


def test_each_word_begins_it_anew(worker: WorkerState) -> None:
    silence = Silence()
    ticks = ticks_until_late(silence, worker)
    silence.end()
    assert ticks_until_late(silence, worker) == ticks


def test_without_a_ledger_it_may_last_as_long_as_before(worker: WorkerState) -> None:
    silence = Silence()
    ticks = ticks_until_late(silence, worker)
    silence.end()
    assert ticks_until_late(silence, None) == ticks


def test_a_worker_that_says_that_it_is_there_may_take_as_long_as_an_engine_compiles(worker: WorkerState) -> None:
    silence = Silence()
    ticks = 1
    while not silence.tick(worker):
        ticks += 1
        silence.beat()
    assert silence.is_stall
    assert ticks * TICK_S == pytest.approx(STALL_S, abs=1)


def test_a_worker_that_says_nothing_more_is_late_as_soon_as_any_other(worker: WorkerState) -> None:
    silence = Silence()
    ticks = ticks_until_late(silence, worker)
    silence.end()
    for _ in range(20):
        silence.tick(worker)
        silence.beat()
    assert ticks_until_late(silence, worker) == ticks
    assert not silence.is_stall
