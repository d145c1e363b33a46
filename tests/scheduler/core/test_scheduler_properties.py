"""Random histories, held against a plain model after every call."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.core.decisions import Decision
from scheduler.core.fleet import Capacity
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.ledgers import check_ledgers
from tests.scheduler.core.reference import Reference

Call = Callable[[Scheduler], list[Decision]]

CAPACITIES = st.builds(
    Capacity, max_sequences=st.integers(1, 6), kv_cache_tokens=st.integers(50, 400), max_step_tokens=st.integers(1, 100)
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(["strict-priority", "fcfs"]), max_queued_requests=st.integers(0, 8))
    def begin(self, policy: PolicyName, max_queued_requests: int) -> None:
        self.policy = make_policy(policy, aging_s=3.0)
        self.max_queued_requests = max_queued_requests
        self.scheduler = Scheduler(self.policy, max_queued_requests)
        self.reference = Reference(self.policy, max_queued_requests)
        self.now = 0.0
        self.submitted = 0
        self.history: list[tuple[Call, list[Decision]]] = []

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

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 4.0]))
    def time_passes_unnoticed_until_the_next_event(self, seconds: float) -> None:
        self.now += seconds
        self.tell("first_token", "nobody")

    @precondition(lambda self: len(self.reference.workers) < 3)
    @rule(number=st.integers(0, 3), capacity=CAPACITIES)
    def join(self, number: int, capacity: Capacity) -> None:
        worker_id = f"w{number}"
        if worker_id not in self.reference.workers:
            self.reference.workers[worker_id] = capacity
            self.tell("join", worker_id, capacity)

    @precondition(lambda self: self.reference.workers)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(list(self.reference.workers)))
        del self.reference.workers[worker_id]
        self.tell("lose", worker_id)

    @rule(
        data=st.data(),
        priority=st.sampled_from(Priority),
        prompt_tokens=st.one_of(st.integers(1, 60), st.integers(1, 500)),
        max_tokens=st.integers(1, 100),
        sequences=st.sampled_from([1, 1, 1, 2, 5, 7]),
        time_left_s=st.sampled_from([-1.0, 0.0, 1.0, 3.0, 30.0, 30.0]),
        age_s=st.sampled_from([0.0, 0.0, 0.2]),
    )
    def submit(
        self,
        data: st.DataObject,
        priority: Priority,
        prompt_tokens: int,
        max_tokens: int,
        sequences: int,
        time_left_s: float,
        age_s: float,
    ) -> None:
        self.submitted += 1
        request = Request(
            f"r{self.submitted}",
            priority,
            self.now - age_s,
            self.now + time_left_s,
            prompt_tokens,
            max_tokens,
            sequences,
        )
        self.reference.submit(request)
        decisions = self.tell("submit", request)
        assert decisions[-1].request == request

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

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def withdraw_any_request_that_ever_was(self, data: st.DataObject) -> None:
        request_id = f"r{data.draw(st.integers(1, self.submitted))}"
        self.reference.withdraw(request_id)
        self.tell("withdraw", request_id)

    @precondition(lambda self: self.reference.over)
    @rule(data=st.data(), method=st.sampled_from(["first_token", "finish"]))
    def news_of_a_request_that_is_over(self, data: st.DataObject, method: str) -> None:
        request_id = data.draw(st.sampled_from(self.reference.over))
        self.tell(method, request_id, *([7] if method == "finish" else []))

    @precondition(lambda self: self.reference.workers)
    @rule(data=st.data(), usage=st.floats(0, 1), preemptions=st.integers(0, 3))
    def report(self, data: st.DataObject, usage: float, preemptions: int) -> None:
        worker_id = data.draw(st.sampled_from(list(self.reference.workers)))
        self.tell("report", worker_id, kv_cache_usage=usage, running=1, waiting=0, preemptions=preemptions)

    @invariant()
    def the_scheduler_agrees_with_the_model(self) -> None:
        self.reference.check({worker.worker_id: worker for worker in self.scheduler.workers()}, self.now)
        check_ledgers(self.scheduler)

    @invariant()
    def the_queue_is_reported_as_it_is(self) -> None:
        waiting = self.reference.waiting
        assert [self.scheduler.position(request.request_id)[0] for request in waiting] == list(range(len(waiting)))
        assert self.scheduler.next_expiry() == min((request.deadline_s for request in waiting), default=None)
        assert self.scheduler.waiting_by_priority() == {
            priority: sum(request.priority is priority for request in waiting) for priority in Priority
        }

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
TestScheduler.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
