"""A dry run tells what a submission would do, and does nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import Decision, Reject, RejectReason, Start, Wait
from scheduler.core.feasible_edf import FeasibleEdf
from scheduler.core.fleet import Capacity
from scheduler.core.policy import Fcfs, Policy, StrictPriority
from scheduler.core.quota import Quota, Quotas
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from scheduler.core.service_class import ServiceClass
from tests.scheduler.core.builders import LARGE, SINGLE, make_request

CLASSES: Mapping[str, ServiceClass] = {
    "chat": ServiceClass("chat", 1.0, ttft_s=1.0, tpot_s=None, e2e_s=None),
    "batch": ServiceClass("batch", 0.2, ttft_s=30.0, tpot_s=None, e2e_s=None, on_infeasible="relegate"),
    "slow": ServiceClass("slow", 1.0, ttft_s=600.0, tpot_s=None, e2e_s=None),
}
POLICIES: list[Policy] = [FeasibleEdf(CLASSES), StrictPriority(10.0), Fcfs()]


@dataclass(frozen=True)
class Step:
    """Something that happens: a request, or the end of the oldest that runs, or nothing but time."""

    passed_s: float
    kind: str
    service_class: str
    prompt_tokens: int
    priority: Priority


STEPS = st.lists(
    st.builds(
        Step,
        passed_s=st.sampled_from([0.0, 0.01, 0.2, 2.0]),
        kind=st.sampled_from(["submit", "submit", "submit", "finish", "first", "pass"]),
        service_class=st.sampled_from(sorted(CLASSES)),
        prompt_tokens=st.sampled_from([1, 100, 2_000, 9_000]),
        priority=st.sampled_from(Priority),
    ),
    max_size=40,
)


def request_of(step: Step, number: int, now: float) -> Request:
    return make_request(
        str(number),
        priority=step.priority,
        arrival_s=now,
        deadline_s=now + 1_000.0,
        prompt_tokens=step.prompt_tokens,
        service_class=step.service_class,
    )


def play(scheduler: Scheduler, steps: list[Step], *, asking: bool) -> list[Decision]:
    """Let it all happen; where ``asking``, each request is explained first, and the answer checked."""
    decisions: list[Decision] = []
    now = 0.0
    scheduler.join("w", Capacity(max_sequences=3, kv_cache_tokens=50_000, max_step_tokens=2_048), now)
    for number, step in enumerate(steps):
        now += step.passed_s
        running = scheduler.workers()[0].request_ids
        decisions += scheduler.expire(now)
        if step.kind == "submit":
            request = request_of(step, number, now)
            told = scheduler.explain(request, now) if asking else None
            answer = scheduler.submit(request, now)
            decisions += answer
            if told:
                check(told, next(decision for decision in answer if decision.request is request))
        elif step.kind == "first" and running:
            decisions += scheduler.first_token(running[0], now)
        elif step.kind == "finish" and running:
            decisions += scheduler.finish(running[0], 10, now)
    return decisions


def check(told, answer: Decision) -> None:  # type: ignore[no-untyped-def]
    match answer:
        case Start(worker_id=worker_id, promised=promised):
            # A small request may pass a head that lacks KV cache alone; nobody can tell that beforehand.
            assert told.refusal is None
            assert told.worker_id in ("", worker_id)
            assert told.place.promised == promised
        case Wait(position=position, promised=promised):
            assert (told.refusal, told.worker_id) == (None, "")
            assert (told.place.position, told.place.promised) == (position, promised)
        case Reject(reason=reason):
            assert told.refusal is not None
            assert told.refusal.reason == reason


@settings(max_examples=150)
@given(STEPS, st.sampled_from(POLICIES))
def test_what_is_told_is_what_then_happens(steps: list[Step], policy: Policy) -> None:
    play(Scheduler(policy, 5), steps, asking=True)


@settings(max_examples=80)
@given(STEPS, st.sampled_from(POLICIES))
def test_asking_changes_nothing(steps: list[Step], policy: Policy) -> None:
    asked = play(Scheduler(policy, 5), steps, asking=True)
    assert asked == play(Scheduler(policy, 5), steps, asking=False)


def test_who_would_start_at_once_is_told_where_and_when_its_tokens_come() -> None:
    scheduler = Scheduler(FeasibleEdf(CLASSES), 100)
    scheduler.join("w", LARGE, 0.0)
    outlook = scheduler.explain(make_request(service_class="chat", prompt_tokens=2_000), 0.0)
    assert (outlook.refusal, outlook.worker_id, outlook.place.promised) == (None, "w", True)
    assert outlook.place.estimated_wait_s == 0.0
    assert outlook.first_token_s == pytest.approx(0.0055 + 2_000 * 25.6e-6)
    assert outlook.total_s is not None
    assert outlook.total_s > outlook.first_token_s
    assert outlook.expected_tokens == 16


def test_who_is_hopeless_is_told_what_an_idle_worker_would_take() -> None:
    scheduler = Scheduler(FeasibleEdf(CLASSES), 100)
    scheduler.join("w", LARGE, 0.0)
    outlook = scheduler.explain(make_request(service_class="chat", prompt_tokens=80_000), 0.0)
    assert outlook.refusal is not None
    assert outlook.refusal.reason is RejectReason.INFEASIBLE
    assert outlook.refusal.estimate_s == pytest.approx(2.7, abs=0.2)


def test_who_is_over_quota_or_has_no_worker_is_told_so() -> None:
    scheduler = Scheduler(Fcfs(), 100, Quotas({"one": Quota(max_requests=1)}))
    nowhere = scheduler.explain(make_request(), 0.0)
    assert nowhere.refusal is not None
    assert nowhere.refusal.reason is RejectReason.NO_WORKER
    assert nowhere.first_token_s is None
    scheduler.join("w", SINGLE, 0.0)
    scheduler.submit(make_request("a", tenant="one"), 0.0)
    over = scheduler.explain(make_request("b", tenant="one"), 0.0)
    assert over.refusal is not None
    assert over.refusal.reason is RejectReason.OVER_QUOTA
