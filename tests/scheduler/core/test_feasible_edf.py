import pytest

from scheduler.core.decisions import Decision, Reject, RejectReason, Start, Wait
from scheduler.core.feasible_edf import BYPASS_REQUESTS, BYPASS_S, PROBE_AFTER_S, FeasibleEdf
from scheduler.core.fleet import Capacity
from scheduler.core.scheduler import Scheduler
from scheduler.core.service_class import ServiceClass
from tests.scheduler.core.builders import LARGE, SINGLE, make_request
from tests.scheduler.core.conftest import MakeScheduler

CHAT = ServiceClass("chat", 1.0, ttft_s=1.0, tpot_s=None, e2e_s=None)
DEAR = ServiceClass("dear", 9.0, ttft_s=1.0, tpot_s=None, e2e_s=None)
CODE = ServiceClass("code", 1.0, ttft_s=None, tpot_s=None, e2e_s=5.0)
BATCH = ServiceClass("batch", 1.0, ttft_s=2.0, tpot_s=None, e2e_s=None, on_infeasible="relegate")
SLOW = ServiceClass("slow", 1.0, ttft_s=60.0, tpot_s=None, e2e_s=None)
POLICY = FeasibleEdf({each.name: each for each in (CHAT, DEAR, CODE, BATCH, SLOW)})
# At the pace of the first guess a prompt of this size takes about half a second on its own.
HALF_SECOND_TOKENS = 15_000


@pytest.fixture
def scheduler(make_scheduler: MakeScheduler) -> Scheduler:
    return make_scheduler(POLICY)


def busy(scheduler: Scheduler, capacity: Capacity = LARGE, prompt_tokens: int = HALF_SECOND_TOKENS) -> None:
    scheduler.join("w", capacity, 0.0)
    running = make_request("running", service_class="slow", prompt_tokens=prompt_tokens)
    assert scheduler.submit(running, 0.0) == [Start(running, "w")]


def report(scheduler: Scheduler, worker_id: str, now: float) -> list[Decision]:
    return scheduler.report(worker_id, kv_cache_usage=0.0, running=1, waiting=0, preemptions=0, now=now)


def reasons(decisions: list[Decision]) -> list[tuple[str, RejectReason]]:
    return [(each.request.request_id, each.reason) for each in decisions if isinstance(each, Reject)]


def test_the_earliest_due_starts_first_whatever_its_class_or_length(scheduler: Scheduler) -> None:
    busy(scheduler, prompt_tokens=3_000)
    for request in (
        make_request("slow", service_class="slow"),
        make_request("chat", service_class="chat", prompt_tokens=900),
        make_request("code", service_class="code"),
    ):
        scheduler.submit(request, 0.0)
    decisions = scheduler.first_token("running", 0.1)
    assert [each.request.request_id for each in decisions if isinstance(each, Start)] == ["chat", "code", "slow"]


def test_what_cannot_be_in_time_besides_the_others_is_refused_at_once(scheduler: Scheduler) -> None:
    busy(scheduler, prompt_tokens=2 * HALF_SECOND_TOKENS)
    refused = make_request("late", service_class="chat", prompt_tokens=3_000)
    (decision,) = scheduler.submit(refused, 0.0)
    assert isinstance(decision, Reject)
    assert decision.reason is RejectReason.INFEASIBLE_NOW
    assert decision.estimate_s is not None
    assert decision.estimate_s > 0.8


def test_another_try_after_the_time_given_is_accepted(scheduler: Scheduler) -> None:
    busy(scheduler, prompt_tokens=2 * HALF_SECOND_TOKENS)
    (decision,) = scheduler.submit(make_request("late", service_class="chat", prompt_tokens=3_000), 0.0)
    assert isinstance(decision, Reject)
    assert decision.retry_after_s is not None
    now = decision.retry_after_s
    scheduler.first_token("running", now)
    again = make_request("again", service_class="chat", arrival_s=now, prompt_tokens=3_000)
    assert scheduler.submit(again, now) == [Start(again, "w")]


def test_what_no_idle_worker_could_do_in_time_is_refused_for_good(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, 0.0)
    hopeless = make_request("a", service_class="chat", prompt_tokens=50_000)
    assert scheduler.submit(hopeless, 0.0) == [
        Reject(hopeless, RejectReason.INFEASIBLE, None, pytest.approx(1.7, abs=0.05))
    ]


def test_the_one_worth_least_for_its_cost_makes_room(scheduler: Scheduler) -> None:
    busy(scheduler)
    cheap = make_request("cheap", service_class="chat", prompt_tokens=8_000)
    assert isinstance(scheduler.submit(cheap, 0.0)[-1], Wait)
    dear = make_request("dear", service_class="dear", prompt_tokens=8_000)
    decisions = scheduler.submit(dear, 0.0)
    assert reasons(decisions) == [("cheap", RejectReason.INFEASIBLE_NOW)]
    assert isinstance(decisions[-1], Wait)


def test_a_relegated_request_waits_behind_all_promises_and_then_starts(scheduler: Scheduler) -> None:
    busy(scheduler, SINGLE, prompt_tokens=4 * HALF_SECOND_TOKENS)
    assert scheduler.submit(make_request("batch", service_class="batch"), 0.0)[-1].request.request_id == "batch"
    promised = make_request("slow", service_class="slow")
    scheduler.submit(promised, 0.0)
    assert scheduler.place("batch").position == 1
    assert scheduler.finish("running", 5, 3.0) == [Start(promised, "w")]
    assert [each.request.request_id for each in scheduler.finish("slow", 5, 3.1)] == ["batch"]


def test_a_promise_that_cannot_be_kept_any_more_is_broken_when_that_is_certain(scheduler: Scheduler) -> None:
    busy(scheduler, SINGLE, prompt_tokens=10)
    waiting = make_request("a", service_class="chat")
    assert isinstance(scheduler.submit(waiting, 0.0)[-1], Wait)
    due_s = scheduler.next_expiry()
    assert due_s is not None
    assert due_s <= 1.0
    assert reasons(scheduler.expire(due_s)) == [("a", RejectReason.INFEASIBLE_NOW)]


def test_without_any_worker_promises_wait_for_one(scheduler: Scheduler) -> None:
    busy(scheduler, SINGLE, prompt_tokens=10)
    waiting = make_request("a", service_class="slow", deadline_s=90.0)
    scheduler.submit(waiting, 0.0)
    scheduler.lose("w", 0.1)
    assert scheduler.next_expiry() == 90.0
    assert scheduler.expire(50.0) == []
    assert scheduler.join("v", SINGLE, 51.0) == [Start(waiting, "v")]


def test_a_class_that_looks_hopeless_is_tried_now_and_then_until_it_does_not(scheduler: Scheduler) -> None:
    scheduler.join("w", SINGLE, 0.0)
    scheduler.submit(make_request("long", service_class="code"), 0.0)
    scheduler.finish("long", 100_000, 1.0)
    tried = 0
    for number in range(40):
        now = 1.0 + number * PROBE_AFTER_S / 2
        request = make_request(f"r{number}", service_class="code", arrival_s=now, max_tokens=100_000)
        request_id = request.request_id
        decisions = scheduler.submit(request, now)
        if decisions == [Start(request, "w")]:
            tried += 1
            scheduler.finish(request_id, 10, now + 0.5)
        else:
            assert reasons(decisions) == [(request_id, RejectReason.INFEASIBLE)]
    assert tried > 30


def test_a_tenant_far_above_its_share_makes_room_first(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, 0.0)
    for number in range(40):
        tenant = "flood" if number % 10 else f"other {number}"
        request = make_request(f"r{number}", service_class="slow", prompt_tokens=2_000, tenant=tenant)
        scheduler.submit(request, 0.0)
        scheduler.finish(f"r{number}", 10, 0.0)
    scheduler.submit(make_request("running", service_class="slow", prompt_tokens=HALF_SECOND_TOKENS), 2.0)
    for tenant in ("other", "flood"):
        request = make_request(tenant, service_class="chat", arrival_s=2.0, prompt_tokens=8_000, tenant=tenant)
        decisions = scheduler.submit(request, 2.0)
    assert reasons(decisions) == [("flood", RejectReason.INFEASIBLE_NOW)]


@pytest.fixture
def owing_scheduler(make_scheduler: MakeScheduler) -> Scheduler:
    """A scheduler that owes the class "protected" its floor."""
    protected = ServiceClass("protected", 0.01, ttft_s=30.0, tpot_s=None, e2e_s=None, floor=0.5)
    scheduler = make_scheduler(FeasibleEdf({"chat": CHAT, "protected": protected, "slow": SLOW}))
    scheduler.join("w", SINGLE, 0.0)
    scheduler.submit(make_request("asked", service_class="protected"), 0.0)
    scheduler.withdraw("asked", 0.0)
    for number in range(15):
        scheduler.submit(make_request(f"r{number}", service_class="slow", prompt_tokens=80_000), 0.0)
        scheduler.finish(f"r{number}", 5, 0.0)
    return scheduler


def test_a_class_that_is_owed_its_floor_starts_first(owing_scheduler: Scheduler) -> None:
    owing_scheduler.submit(make_request("running", service_class="slow"), 0.0)
    chat = make_request("chat", service_class="chat")
    poor = make_request("poor", service_class="protected")
    owing_scheduler.submit(chat, 0.0)
    owing_scheduler.submit(poor, 0.0)
    assert owing_scheduler.finish("running", 5, 0.1) == [Start(poor, "w")]


def test_others_make_room_for_a_class_that_is_owed_its_floor(owing_scheduler: Scheduler) -> None:
    owing_scheduler.submit(make_request("running", service_class="slow", prompt_tokens=80_000), 2.0)
    for number in range(40):
        request = make_request(f"s{number}", service_class="slow", arrival_s=2.0, prompt_tokens=40_000)
        owing_scheduler.submit(request, 2.0)
    poor = make_request("poor", service_class="protected", arrival_s=2.0, prompt_tokens=40_000)
    assert isinstance(owing_scheduler.submit(poor, 2.0)[-1], Wait)


def test_a_few_smaller_requests_pass_a_head_that_lacks_only_kv_cache(scheduler: Scheduler) -> None:
    busy(scheduler, Capacity(max_sequences=64, kv_cache_tokens=1_000, max_step_tokens=2_048), prompt_tokens=500)
    head = make_request("head", service_class="chat", prompt_tokens=600)
    scheduler.submit(head, 0.0)
    started = []
    for number in range(BYPASS_REQUESTS + 2):
        decisions = scheduler.submit(make_request(f"r{number}", service_class="slow", prompt_tokens=5), 0.1)
        started += [each for each in decisions if isinstance(each, Start)]
    assert len(started) == BYPASS_REQUESTS


def test_nothing_passes_a_head_that_has_waited_long(scheduler: Scheduler) -> None:
    busy(scheduler, Capacity(max_sequences=64, kv_cache_tokens=1_000, max_step_tokens=2_048), prompt_tokens=500)
    scheduler.submit(make_request("head", service_class="slow", prompt_tokens=600), 0.0)
    now = BYPASS_S + 0.1
    late_comer = make_request("small", service_class="slow", arrival_s=now, prompt_tokens=5)
    assert isinstance(scheduler.submit(late_comer, now)[-1], Wait)


def test_a_prompt_goes_where_its_beginning_is_known(scheduler: Scheduler) -> None:
    for worker_id in ("v", "w"):
        scheduler.join(worker_id, LARGE, 0.0)
    first = make_request("a", service_class="slow", prefix="p", prefix_tokens=900, prompt_tokens=1_000)
    scheduler.submit(first, 0.0)
    scheduler.first_token("a", 0.1)
    scheduler.submit(make_request("b", service_class="slow", prompt_tokens=300), 0.1)
    again = make_request("c", service_class="slow", prefix="p", prefix_tokens=900, prompt_tokens=1_000)
    assert scheduler.submit(again, 0.1) == [Start(again, "v")]


def test_of_unequal_workers_the_faster_one_takes_the_request(scheduler: Scheduler) -> None:
    for worker_id, step_s in (("slow", 0.5), ("fast", 0.05)):
        scheduler.join(worker_id, LARGE, 0.0)
        for step in range(40):
            scheduler.report(
                worker_id,
                kv_cache_usage=0.0,
                running=0,
                waiting=0,
                preemptions=0,
                now=0.1,
                step_s=step_s * (1 + step % 3) / 2,
                step_tokens=1_000 * (1 + step % 3),
            )
    request = make_request(service_class="slow", prompt_tokens=1_000)
    assert scheduler.submit(request, 1.0) == [Start(request, "fast")]


def test_prefill_waits_for_the_bucket_while_others_decode(make_scheduler: MakeScheduler) -> None:
    tight = ServiceClass("chat", 1.0, ttft_s=5.0, tpot_s=0.03, e2e_s=None)
    scheduler = make_scheduler(FeasibleEdf({"chat": tight}))
    scheduler.join("w", LARGE, 0.0)
    scheduler.submit(make_request("a", service_class="chat", prompt_tokens=4_000), 0.0)
    scheduler.first_token("a", 0.1)
    report(scheduler, "w", now=0.1)
    scheduler.submit(make_request("long", service_class="chat", prompt_tokens=9_000), 0.1)
    scheduler.first_token("long", 0.1)
    waiting = make_request("b", service_class="chat", prompt_tokens=10)
    assert isinstance(scheduler.submit(waiting, 0.1)[-1], Wait)
    assert Start(waiting, "w") in report(scheduler, "w", now=0.9)


@pytest.mark.parametrize("lengths", [(1, 900), (900, 1), (300, 300)])
def test_the_length_of_the_prompt_changes_nothing_about_its_place_in_the_queue(
    scheduler: Scheduler, lengths: tuple[int, int]
) -> None:
    busy(scheduler, prompt_tokens=3_000)
    for request_id, prompt_tokens in zip(("first", "second"), lengths, strict=True):
        scheduler.submit(make_request(request_id, service_class="code", prompt_tokens=prompt_tokens), 0.0)
    assert [scheduler.place(each).position for each in ("first", "second")] == [0, 1]
    decisions = scheduler.first_token("running", 0.1)
    assert [each.request.request_id for each in decisions] == ["first", "second"]


def test_under_a_light_load_an_answer_is_expected_to_come_as_fast_as_others_do(scheduler: Scheduler) -> None:
    scheduler.join("w", LARGE, 0.0)
    for number in range(25):
        scheduler.submit(make_request(f"known {number}", service_class="slow"), 0.0)
        scheduler.first_token(f"known {number}", 0.0)
        scheduler.finish(f"known {number}", 100, 0.0)
    scheduler.submit(make_request("running", service_class="slow"), 0.0)
    scheduler.first_token("running", 0.0)
    for number in range(300):
        report_step(scheduler, step_s=0.006, now=0.006 * number)
    hasty = make_request("hasty", service_class="slow", arrival_s=1.8, deadline_s=2.8)
    assert scheduler.submit(hasty, 1.8) == [Start(hasty, "w")]
    hopeless = make_request("hopeless", service_class="slow", arrival_s=1.8, deadline_s=2.3)
    assert isinstance(scheduler.submit(hopeless, 1.8)[-1], Reject)


def report_step(scheduler: Scheduler, *, step_s: float, now: float) -> None:
    """Report a step in which one sequence decodes."""
    engine = {"kv_cache_usage": 0.0, "running": 1, "waiting": 0, "preemptions": 0}
    step = {"step_s": step_s, "step_tokens": 1, "step_contexts": 100, "step_sequences": 1}
    scheduler.report("w", **engine, **step, now=now)  # type: ignore[arg-type]


def test_those_without_a_promise_leave_half_the_queue_to_those_with_one() -> None:
    scheduler = Scheduler(POLICY, 8)
    busy(scheduler, SINGLE)
    late = [make_request(f"late {n}", service_class="batch", prompt_tokens=90_000) for n in range(8)]
    refused = [each for request in late for each in scheduler.submit(request, 0.0) if isinstance(each, Reject)]
    assert {each.reason for each in refused} == {RejectReason.QUEUE_FULL}
    assert scheduler.waiting == 4
    assert isinstance(scheduler.submit(make_request("promised", service_class="slow"), 0.0)[-1], Wait)
