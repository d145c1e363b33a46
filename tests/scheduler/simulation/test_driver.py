import pytest

from common.simulated_batch import H200, BatchCapacity
from scheduler.core.policy import Fcfs
from scheduler.core.scheduler import Scheduler
from scheduler.simulation.arms import CORE_POLICIES, Arm, by_class, make_arm, policy_names
from scheduler.simulation.driver import End, simulate
from scheduler.simulation.result import summarise
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import PROMISES
from tests.scheduler.simulation.runs import make_arrivals, serve


def chat(arrival_s: float, prompt_tokens: int = 100, output_tokens: int = 10) -> Arrival:
    return Arrival(arrival_s, prompt_tokens, output_tokens, "chat", "t")


@pytest.mark.parametrize("policy", policy_names())
@pytest.mark.parametrize("workers", [1, 3])
def test_every_request_ends_once_and_what_is_done_has_all_its_tokens(policy: str, workers: int) -> None:
    arrivals = make_arrivals(1.5 * workers, duration_s=60.0 / workers)
    outcomes = serve(policy, arrivals, workers=workers)
    assert [outcome.arrival for outcome in outcomes] == arrivals
    for outcome in outcomes:
        arrival = outcome.arrival
        assert outcome.end is not None
        assert outcome.end_s >= arrival.arrival_s
        if outcome.end is End.DONE:
            assert outcome.first_s is not None
            assert arrival.arrival_s < outcome.first_s <= outcome.end_s
            # The first token of the answer comes with the prompt.
            assert outcome.computed_tokens == arrival.prompt_tokens + arrival.output_tokens - 1
        if outcome.end in (End.REFUSED, End.EXPIRED):
            assert (outcome.first_s, outcome.computed_tokens) == (None, 0)


@pytest.mark.parametrize("policy", policy_names())
def test_the_same_seed_gives_the_same_outcomes(policy: str) -> None:
    first, second = (serve(policy, make_arrivals(1.5, duration_s=20.0)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("policy", policy_names())
def test_at_low_load_every_policy_keeps_its_promises(policy: str) -> None:
    arrivals = make_arrivals(0.2, duration_s=100.0)
    assert summarise(serve(policy, arrivals), PROMISES, 100.0).attainment >= 0.95


@pytest.mark.parametrize("policy", CORE_POLICIES)
def test_the_cores_policies_are_carried_out_by_the_production_scheduler(policy: str) -> None:
    assert type(make_arm(policy, H200).scheduler) is Scheduler


def test_what_is_there_at_once_is_prefilled_in_one_step_and_decodes_together() -> None:
    outcomes = serve("fcfs", [chat(0.0), chat(0.0, output_tokens=1), chat(0.0, output_tokens=3)])
    first_s = H200.duration_s(100, 0, 1)
    second_s = first_s + H200.duration_s(201, 101, 3)
    assert outcomes[0].first_s == pytest.approx(first_s)
    assert [outcome.first_s for outcome in outcomes[1:]] == [pytest.approx(second_s)] * 2
    assert outcomes[1].end_s == outcomes[1].first_s


def test_an_engine_that_slept_begins_a_step_when_a_request_arrives() -> None:
    (outcome,) = serve("fcfs", [chat(50.0)])
    assert outcome.first_s == pytest.approx(50.0 + H200.duration_s(100, 0, 1))


def test_requests_preempted_for_want_of_memory_still_get_all_their_tokens() -> None:
    arm = make_arm("vllm-fcfs", H200)
    capacity = BatchCapacity(max_sequences=8, kv_cache_tokens=1600, max_step_tokens=512)
    arrivals = [Arrival(0.0, 300, 400, "batch", "t") for _ in range(5)]
    outcomes = simulate(arm, arrivals, workers=1, capacity=capacity)
    assert {outcome.end for outcome in outcomes} == {End.DONE}
    assert sum(outcome.computed_tokens for outcome in outcomes) > 5 * 699


def test_a_caller_hangs_up_when_no_token_has_come_in_time_and_the_engine_forgets_it() -> None:
    flood = [Arrival(0.0, 28_000, 1, "document", "t") for _ in range(40)]
    *_, outcome = serve("vllm-fcfs", [*flood, chat(1.0)])
    assert (outcome.end, outcome.end_s, outcome.computed_tokens) == (End.CANCELLED, 11.0, 0)


def test_a_caller_that_has_its_first_token_waits_on() -> None:
    (outcome,) = serve("vllm-fcfs", [chat(0.0, output_tokens=4000)])
    assert outcome.end is End.DONE
    assert outcome.end_s > 20.0


def test_a_caller_hangs_up_at_its_deadline_whatever_has_come() -> None:
    (outcome,) = serve("vllm-fcfs", [Arrival(0.0, 100, 4000, "code", "t")])
    assert (outcome.end, outcome.end_s) == (End.CANCELLED, 5.0)
    assert 100 < outcome.computed_tokens < 4000


class Late(Scheduler):
    """Never lets time pass."""

    def next_expiry(self) -> float | None:
        return 1.0


def test_a_scheduler_that_waits_for_what_is_over_is_an_error_and_not_an_endless_loop() -> None:
    arm = Arm(Late(Fcfs(), 10), by_class, engine_priority=False)
    with pytest.raises(RuntimeError, match=r"still waits for 1\.0"):
        simulate(arm, [chat(0.0)], workers=1)
