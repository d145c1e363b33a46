"""Random histories under the feasible-edf policy: what it must hold whatever happens."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.core.decisions import Decision, Expire, Lose, Reject, RejectReason, Start, Wait
from scheduler.core.discipline import Placement
from scheduler.core.feasible_edf import FeasibleEdf, FeasibleEdfDiscipline
from scheduler.core.fleet import Capacity
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from scheduler.core.service_class import ServiceClass
from tests.scheduler.core.builders import resumption
from tests.scheduler.core.ledgers import check_ledgers
from tests.scheduler.core.test_backlog import late

Call = Callable[[Scheduler], list[Decision]]

POLICY = FeasibleEdf(
    {
        "chat": ServiceClass("chat", 2.0, ttft_s=1.0, tpot_s=0.1, e2e_s=None, floor=0.2),
        "code": ServiceClass("code", 1.0, ttft_s=None, tpot_s=None, e2e_s=3.0),
        "batch": ServiceClass("batch", 0.5, ttft_s=8.0, tpot_s=None, e2e_s=None, on_infeasible="relegate"),
    },
    {"a": 2.0},
)
CAPACITIES = st.builds(
    Capacity,
    max_sequences=st.sampled_from([2, 1, 5]),
    kv_cache_tokens=st.sampled_from([200, 60, 4_000]),
    max_step_tokens=st.sampled_from([40, 1, 100]),
    context_tokens=st.sampled_from([1_000_000, 60]),
)
MAX_QUEUED_REQUESTS = 12


def has_credit(placement: Placement) -> None:
    """A slot, KV cache, less than a step of prefill outstanding, an open bucket; an idle worker takes what fits."""
    request, worker, expected_tokens = placement
    assert worker.sequences + request.sequences <= worker.capacity.max_sequences
    assert request.prompt_tokens < worker.capacity.kv_cache_tokens
    if worker.request_ids:
        wanted_tokens = request.prompt_tokens + request.sequences * expected_tokens
        assert worker.kv_tokens + wanted_tokens <= 0.97 * worker.capacity.kv_cache_tokens
        assert worker.pending_prefill_tokens < worker.capacity.max_step_tokens
        assert worker.prefill_bucket.is_open or not worker.decoding


class FeasibleEdfMachine(RuleBasedStateMachine):
    @initialize(capacities=st.lists(CAPACITIES, min_size=1, max_size=2))
    def begin(self, capacities: list[Capacity]) -> None:
        self.scheduler = self.watched(Scheduler(POLICY, MAX_QUEUED_REQUESTS))
        self.now = 0.0
        self.submitted = 0
        self.waiting: dict[str, Request] = {}
        self.running: dict[str, str] = {}
        self.resuming: dict[str, Request] = {}
        self.over: list[str] = []
        self.history: list[tuple[Call, list[Decision]]] = []
        for number, capacity in enumerate(capacities):
            self.tell("join", f"w{number}", capacity)

    def watched(self, scheduler: Scheduler) -> Scheduler:
        """Let each plan be checked before anything starts, and each start before it is made."""
        discipline = scheduler._discipline
        assert isinstance(discipline, FeasibleEdfDiscipline)
        shed, next_start = discipline.shed, discipline.next_start

        def checked_start(now: float) -> Placement | None:
            if placement := next_start(now):
                has_credit(placement)
            return placement

        def checked_shed(now: float) -> list[Reject]:
            planned_s = discipline._plan_due_s
            refusals = shed(now)
            if discipline._plan_due_s != planned_s:
                assert late(list(discipline.waiting.backlog), discipline._forecast.supply(), now) == []
            return refusals

        discipline.shed = checked_shed  # type: ignore[method-assign]
        discipline.next_start = checked_start  # type: ignore[method-assign]
        return scheduler

    def tell(self, method: str, *args: Any, **kwargs: Any) -> list[Decision]:
        now = self.now

        def call(scheduler: Scheduler) -> list[Decision]:
            decisions: list[Decision] = getattr(scheduler, method)(*args, **kwargs, now=now)
            return decisions

        decisions = call(self.scheduler)
        self.history.append((call, decisions))
        for decision in decisions:
            self.hear(decision)
        return decisions

    def hear(self, decision: Decision) -> None:
        request_id = decision.request.request_id
        match decision:
            case Start(request, worker_id):
                assert (self.resuming if request.resumes else self.waiting).pop(request_id) == request
                assert request.deadline_s > self.now, "started after its deadline"
                self.nobody_waits_for_what_a_newcomer_got(request)
                self.nobody_of_its_kind_who_needs_no_more_is_more_urgent(request)
                self.running[request_id] = worker_id
            case Wait(request, position, estimated_wait_s):
                assert self.waiting[request_id] == request
                assert 0 <= position < len(self.waiting) <= MAX_QUEUED_REQUESTS
                assert estimated_wait_s is None or estimated_wait_s >= 0
            case Reject(request, reason, retry_after_s):
                del self.waiting[request_id]
                assert (retry_after_s is None) == (reason in {RejectReason.TOO_LARGE, RejectReason.INFEASIBLE})
                assert reason is not RejectReason.INFEASIBLE_NOW or request.service_class != "batch"
                self.end(request_id)
            case Expire(request):
                del (self.resuming if request.resumes else self.waiting)[request_id]
                assert request.deadline_s <= self.now
                self.end(request_id)
            case Lose():
                del self.running[request_id]
                self.end(request_id)

    def nobody_waits_for_what_a_newcomer_got(self, request: Request) -> None:
        workers = self.scheduler.workers()
        held_up = any(worker.fits(each) for each in self.resuming.values() for worker in workers)
        assert request.resumes or not held_up, "passed one that had started before"

    def nobody_of_its_kind_who_needs_no_more_is_more_urgent(self, request: Request) -> None:
        """Within a class and tenant the order is that of due times; only smaller ones may pass, for a moment.

        Who is expected to write more must begin earlier, so that the order of arrival holds among equals alone.
        """
        discipline = self.scheduler._discipline
        assert isinstance(discipline, FeasibleEdfDiscipline)
        expected_tokens = discipline._books.output_length.expected_tokens
        for job in discipline.waiting.backlog:
            other = job.request
            if (other.service_class, other.tenant) == (request.service_class, request.tenant):
                earlier = other.arrival_s < request.arrival_s and other.deadline_s < request.deadline_s
                earlier = earlier and expected_tokens(other) >= expected_tokens(request)
                larger = discipline._kv_tokens(other) > discipline._kv_tokens(request)
                assert not earlier or larger or other.sequences > request.sequences

    def end(self, request_id: str) -> None:
        assert request_id not in self.over, f"{request_id} ended twice"
        self.over.append(request_id)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.3, 2.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell("expire")

    @precondition(lambda self: self.scheduler.next_expiry() is not None)
    @rule()
    def time_passes_to_the_next_expiry(self) -> None:
        due_s = self.scheduler.next_expiry()
        self.now = max(self.now, due_s or 0.0)
        self.tell("expire")
        following_s = self.scheduler.next_expiry()
        assert following_s is None or following_s > self.now, "would be called again and again"

    @precondition(lambda self: len(self.scheduler.workers()) < 3)
    @rule(capacity=CAPACITIES, on_trial=st.booleans())
    def join(self, capacity: Capacity, *, on_trial: bool) -> None:
        names = {worker.worker_id for worker in self.scheduler.workers()}
        self.tell("join", next(name for name in ("w0", "w1", "w2") if name not in names), capacity, on_trial=on_trial)

    @precondition(lambda self: self.scheduler.workers())
    @rule(data=st.data())
    def trust(self, data: st.DataObject) -> None:
        self.tell("trust", self.some_worker(data))

    @precondition(lambda self: self.scheduler.workers())
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lost = [each.request for each in self.tell("lose", self.some_worker(data)) if isinstance(each, Lose)]
        for request in lost:
            if data.draw(st.sampled_from([True, True, False])):
                self.over.remove(request.request_id)
                resumed = resumption(request, data.draw(st.integers(0, request.max_tokens - 1)))
                self.resuming[request.request_id] = resumed
                self.tell("resume", resumed)

    @rule(
        sizes=st.lists(
            st.tuples(
                st.sampled_from(["chat", "chat", "code", "batch"]),
                st.sampled_from([1, 1, 5, 30, 59, 100, 199]),
                st.sampled_from([1, 20, 100]),
                st.sampled_from([1, 1, 1, 2]),
                st.sampled_from([20.0, 20.0, 2.0, 0.5, 0.0]),
                st.sampled_from(["", "a", "b"]),
            ),
            min_size=1,
            max_size=10,
        )
    )
    def submit(self, sizes: list[tuple[str, int, int, int, float, str]]) -> None:
        for service_class, prompt_tokens, max_tokens, sequences, time_left_s, tenant in sizes:
            self.submitted += 1
            request = Request(
                f"r{self.submitted}",
                Priority.NORMAL,
                self.now,
                self.now + time_left_s,
                prompt_tokens,
                max_tokens,
                sequences,
                service_class,
                tenant,
            )
            self.waiting[request.request_id] = request
            decisions = self.tell("submit", request)
            assert [decision.request for decision in decisions].count(request) == 1
            assert isinstance(decisions[-1], Start | Wait | Reject)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        self.tell("first_token", data.draw(st.sampled_from(list(self.running))))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output_tokens=st.sampled_from([0, 5, 40, 3_000]))
    def finish(self, data: st.DataObject, output_tokens: int) -> None:
        request_id = data.draw(st.sampled_from(list(self.running)))
        del self.running[request_id]
        self.end(request_id)
        self.tell("finish", request_id, output_tokens)

    @precondition(lambda self: self.running or self.waiting or self.resuming)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from([*self.running, *self.waiting, *self.resuming]))
        self.resuming.pop(request_id, None)
        self.running.pop(request_id, None)
        self.waiting.pop(request_id, None)
        self.end(request_id)
        self.tell("withdraw", request_id)

    @precondition(lambda self: self.scheduler.workers())
    @rule(
        data=st.data(),
        usage=st.sampled_from([0.0, 0.3, 1.0]),
        preemptions=st.integers(0, 3),
        step_s=st.sampled_from([None, 0.005, 0.05, 0.5]),
    )
    def report(self, data: st.DataObject, usage: float, preemptions: int, step_s: float | None) -> None:
        self.tell(
            "report",
            self.some_worker(data),
            kv_cache_usage=usage,
            running=1,
            waiting=0,
            preemptions=preemptions,
            step_s=step_s,
            step_tokens=10,
            step_contexts=100,
            step_sequences=1,
        )

    def some_worker(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([worker.worker_id for worker in self.scheduler.workers()]))

    @invariant()
    def the_ledgers_hold_what_runs(self) -> None:
        check_ledgers(self.scheduler)
        for worker in self.scheduler.workers():
            assert worker.request_ids == [each for each, place in self.running.items() if place == worker.worker_id]

    @invariant()
    def nobody_waits_who_is_over_or_could_start_first(self) -> None:
        discipline = self.scheduler._discipline
        assert isinstance(discipline, FeasibleEdfDiscipline)
        assert {request.request_id for request in discipline.waiting} == set(self.waiting)
        assert all(request.deadline_s > self.now for request in self.waiting.values())
        assert all(request.deadline_s > self.now for request in self.resuming.values())
        for request in self.resuming.values():
            expected_tokens = self.scheduler._output_length.expected_tokens(request)
            assert not any(worker.can_run(request, expected_tokens) for worker in self.scheduler.workers())
        head = discipline.first()
        held_up = any(worker.fits(each) for each in self.resuming.values() for worker in self.scheduler.workers())
        if head and not held_up:
            expected_tokens = self.scheduler._output_length.expected_tokens(head)
            assert not any(worker.can_run(head, expected_tokens) for worker in self.scheduler.workers())

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            self.every_request_comes_to_its_end()
            again = Scheduler(POLICY, MAX_QUEUED_REQUESTS)
            for call, decisions in self.history:
                assert call(again) == decisions, "the same facts gave other decisions"

    def every_request_comes_to_its_end(self) -> None:
        while self.running:
            request_id = next(iter(self.running))
            del self.running[request_id]
            self.end(request_id)
            self.tell("finish", request_id, 5)
        self.now += 60.0
        self.tell("expire")
        assert sorted(self.over) == sorted(f"r{number}" for number in range(1, self.submitted + 1))
        for worker in self.scheduler.workers():
            ledger = (worker.sequences, worker.kv_tokens, worker.prefill_tokens, worker.decoding, worker.context_tokens)
            assert ledger == (0, 0, 0, 0, 0)


TestFeasibleEdf = FeasibleEdfMachine.TestCase
TestFeasibleEdf.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
