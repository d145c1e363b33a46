"""Random histories, held against a plain model after every call."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.core.decisions import Decision, Lose
from scheduler.core.fleet import Capacity
from scheduler.core.policy import Fcfs, Order, StrictPriority
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import resumption
from tests.scheduler.core.ledgers import check_ledgers
from tests.scheduler.core.reference import Reference

Call = Callable[[Scheduler], list[Decision]]

# Small workers and large requests, so that a few of them make a queue.
CAPACITIES = st.builds(
    Capacity,
    max_sequences=st.sampled_from([2, 1, 5]),
    kv_cache_tokens=st.sampled_from([200, 60, 400]),
    max_step_tokens=st.sampled_from([40, 1, 100]),
    context_tokens=st.sampled_from([1_000_000, 60]),
)


@dataclass(frozen=True)
class Shape:
    """A request without its id and its times."""

    priority: Priority
    prompt_tokens: int
    max_tokens: int
    sequences: int
    time_left_s: float
    age_s: float


SHAPES = st.builds(
    Shape,
    priority=st.sampled_from(Priority),
    prompt_tokens=st.one_of(st.integers(1, 50), st.sampled_from([1, 59, 60, 100, 184, 199, 400])),
    max_tokens=st.integers(1, 100),
    sequences=st.sampled_from([1, 1, 1, 1, 2, 5, 6]),
    time_left_s=st.sampled_from([30.0, 30.0, 30.0, 3.0, 1.0, 0.0]),
    age_s=st.sampled_from([0.0, 0.0, 0.2]),
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from([StrictPriority(aging_s=3.0), Fcfs()]),
        max_queued_requests=st.sampled_from([20, 4, 0]),
        capacities=st.lists(CAPACITIES, min_size=1, max_size=2),
    )
    def begin(self, policy: Order, max_queued_requests: int, capacities: list[Capacity]) -> None:
        self.policy = policy
        self.max_queued_requests = max_queued_requests
        self.scheduler = Scheduler(self.policy, max_queued_requests)
        self.reference = Reference(self.policy, max_queued_requests)
        self.now = 0.0
        self.submitted = 0
        self.history: list[tuple[Call, list[Decision]]] = []
        for number, capacity in enumerate(capacities):
            self.join_as(f"w{number}", capacity)

    def tell(self, method: str, *args: Any, **kwargs: Any) -> list[Decision]:
        now = self.now

        def call(scheduler: Scheduler) -> list[Decision]:
            decisions: list[Decision] = getattr(scheduler, method)(*args, **kwargs, now=now)
            return decisions

        before = {worker.worker_id: worker for worker in self.scheduler.workers()}
        decisions = call(self.scheduler)
        self.history.append((call, decisions))
        after = {worker.worker_id: worker for worker in self.scheduler.workers()}
        self.reference.hear(decisions, before | after, self.now)
        return decisions

    def some_running(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.reference.running)))

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell("expire")

    @rule(seconds=st.sampled_from([0.01, 1.0]), shape=SHAPES)
    def time_passes_unnoticed_until_the_next_request(self, seconds: float, shape: Shape) -> None:
        self.now += seconds
        self.submit(shape)

    @precondition(lambda self: len(self.reference.workers) < 3)
    @rule(capacity=CAPACITIES)
    def join(self, capacity: Capacity) -> None:
        self.join_as(next(name for name in ("w0", "w1", "w2") if name not in self.reference.workers), capacity)

    def join_as(self, worker_id: str, capacity: Capacity) -> None:
        self.reference.workers[worker_id] = capacity
        self.tell("join", worker_id, capacity)
        self.the_scheduler_agrees_with_the_model()

    @precondition(lambda self: self.reference.workers)
    @rule(data=st.data(), successor=st.one_of(CAPACITIES, CAPACITIES, st.none()))
    def lose(self, data: st.DataObject, successor: Capacity | None) -> None:
        worker_id = data.draw(st.sampled_from(list(self.reference.workers)))
        del self.reference.workers[worker_id]
        lost = [each.request for each in self.tell("lose", worker_id) if isinstance(each, Lose)]
        for request in data.draw(st.permutations(lost)) if lost else []:
            self.resume(data, request)
        if successor:
            self.join_as(worker_id, successor)

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data())
    def a_worker_does_not_take_what_it_is_given(self, data: st.DataObject) -> None:
        self.resume(data, self.reference.running[self.some_running(data)].request)

    def resume(self, data: st.DataObject, request: Request) -> None:
        """Let a lost request go on, or stay lost, as one that could not be resumed."""
        if not data.draw(st.sampled_from([True, True, False])):
            return
        resumed = resumption(request, data.draw(st.integers(0, request.max_tokens - 1)))
        self.reference.resume(resumed)
        self.tell("resume", resumed)
        self.the_scheduler_agrees_with_the_model()

    @rule(shapes=st.lists(SHAPES, min_size=1, max_size=8))
    def submit_some(self, shapes: list[Shape]) -> None:
        for shape in shapes:
            self.submit(shape)
            self.the_scheduler_agrees_with_the_model()

    def submit(self, shape: Shape) -> None:
        self.submitted += 1
        request = Request(
            f"r{self.submitted}",
            shape.priority,
            self.now - shape.age_s,
            self.now + shape.time_left_s,
            shape.prompt_tokens,
            shape.max_tokens,
            shape.sequences,
        )
        self.reference.submit(request)
        decisions = self.tell("submit", request)
        assert [decision.request for decision in decisions].count(request) == 1

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        request_id = self.some_running(data)
        self.reference.running[request_id].prefill_tokens = 0
        self.tell("first_token", request_id)

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data(), output_tokens=st.integers(0, 200))
    def finish(self, data: st.DataObject, output_tokens: int) -> None:
        request_id = self.some_running(data)
        self.reference.finish(request_id, output_tokens)
        self.tell("finish", request_id, output_tokens)

    @precondition(lambda self: self.reference.known())
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(self.reference.known()))
        self.reference.withdraw(request_id)
        self.tell("withdraw", request_id)

    @precondition(lambda self: self.reference.over)
    @rule(data=st.data(), method=st.sampled_from(["withdraw", "first_token", "finish"]))
    def news_of_a_request_that_is_over(self, data: st.DataObject, method: str) -> None:
        request_id = data.draw(st.sampled_from(self.reference.over))
        decisions = self.tell(method, request_id, *([7] if method == "finish" else []))
        assert decisions == []

    @precondition(lambda self: self.reference.workers)
    @rule(data=st.data(), usage=st.sampled_from([0.0, 0.3, 0.6, 1.0]), preemptions=st.integers(0, 3))
    def report(self, data: st.DataObject, usage: float, preemptions: int) -> None:
        worker_id = data.draw(st.sampled_from(list(self.reference.workers)))
        self.tell("report", worker_id, kv_cache_usage=usage, running=1, waiting=0, preemptions=preemptions)

    @invariant()
    def the_scheduler_agrees_with_the_model(self) -> None:
        self.reference.check({worker.worker_id: worker for worker in self.scheduler.workers()}, self.now)
        check_ledgers(self.scheduler)

    @invariant()
    def the_queue_is_reported_as_it_is(self) -> None:
        waiting, resuming = self.reference.waiting, self.reference.resuming
        assert [self.scheduler.place(request.request_id).position for request in waiting] == list(range(len(waiting)))
        assert self.scheduler.next_expiry() == min(
            (request.deadline_s for request in [*waiting, *resuming]), default=None
        )
        assert self.scheduler.waiting == len(waiting) + len(resuming)
        by_class = Counter(request.class_name for request in [*waiting, *resuming])
        assert Counter(self.scheduler.waiting_by_class()) == by_class

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            self.every_request_can_be_brought_to_its_end()
            self.the_same_facts_give_the_same_decisions()

    def every_request_can_be_brought_to_its_end(self) -> None:
        while self.reference.running:
            self.finish_first()
            self.the_scheduler_agrees_with_the_model()
        self.now += 60.0
        self.tell("expire")
        assert sorted(self.reference.over) == sorted(f"r{number}" for number in range(1, self.submitted + 1))
        for worker in self.scheduler.workers():
            assert (worker.sequences, worker.kv_tokens, worker.prefill_tokens) == (0, 0, 0)

    def finish_first(self) -> None:
        request_id = next(iter(self.reference.running))
        self.reference.finish(request_id, 5)
        self.tell("finish", request_id, 5)

    def the_same_facts_give_the_same_decisions(self) -> None:
        again = Scheduler(self.policy, self.max_queued_requests)
        for call, decisions in self.history:
            assert call(again) == decisions


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
