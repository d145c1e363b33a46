"""Whatever the first answers and steps were like, no class is locked out by what was learnt from them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import Start
from scheduler.core.feasible_edf import FeasibleEdf
from scheduler.core.scheduler import Scheduler
from scheduler.core.service_class import ServiceClass
from tests.scheduler.core.builders import LARGE, make_request

CLASSES = {
    "chat": ServiceClass("chat", 1.0, ttft_s=1.0, tpot_s=0.1, e2e_s=None),
    "code": ServiceClass("code", 1.0, ttft_s=None, tpot_s=None, e2e_s=2.5),
    "batch": ServiceClass("batch", 0.5, ttft_s=8.0, tpot_s=None, e2e_s=None, on_infeasible="relegate"),
}
STEP_S, OUTPUT_TOKENS, TRIED_S = 0.01, 10, 400


def report(scheduler: Scheduler, now: float, step_s: float) -> None:
    scheduler.report(
        "w",
        kv_cache_usage=0.0,
        running=1,
        waiting=0,
        preemptions=0,
        now=now,
        step_s=step_s,
        step_tokens=500,
        step_contexts=500,
        step_sequences=1,
    )


def is_served(scheduler: Scheduler, service_class: str, number: int) -> bool:
    """Submit a request a second, and serve it at once if it starts."""
    now = float(number)
    request = make_request(
        f"r{number}",
        service_class=service_class,
        arrival_s=now,
        deadline_s=now + 30.0,
        prompt_tokens=500,
        max_tokens=100_000,
    )
    started = Start(request, "w") in scheduler.submit(request, now)
    if started:
        scheduler.first_token(request.request_id, now + STEP_S)
        for step in range(1, OUTPUT_TOKENS):
            report(scheduler, now + step * STEP_S, STEP_S)
        scheduler.finish(request.request_id, OUTPUT_TOKENS, now + OUTPUT_TOKENS * STEP_S)
    else:
        scheduler.withdraw(request.request_id, now + 0.5)
    return started


@settings(max_examples=30, deadline=None)
@given(
    service_class=st.sampled_from(list(CLASSES)),
    answers=st.lists(st.integers(1, 100_000), max_size=30),
    steps_s=st.lists(st.floats(0.001, 8.0), max_size=30),
)
def test_no_class_is_locked_out_by_a_cold_start(service_class: str, answers: list[int], steps_s: list[float]) -> None:
    scheduler = Scheduler(FeasibleEdf(CLASSES), 100)
    scheduler.join("w", LARGE, 0.0)
    for number, output_tokens in enumerate(answers):
        scheduler.submit(make_request(f"cold-{number}", service_class=service_class, max_tokens=100_000), 0.0)
        scheduler.finish(f"cold-{number}", output_tokens, 0.0)
    for step_s in steps_s:
        report(scheduler, 0.0, step_s)
    served = [is_served(scheduler, service_class, number) for number in range(1, TRIED_S)]
    assert all(served[-10:])
