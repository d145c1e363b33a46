"""Runs a scheduler against engines under virtual time, from the first arrival to the last answer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from typing import Any

from common.simulated_batch import H200, BatchCapacity, StepModel
from scheduler.core.decisions import Decision, Expire, Reject, Start, Wait
from scheduler.core.fleet import Capacity
from scheduler.core.request import Request
from scheduler.simulation.arms import Arm, make_request
from scheduler.simulation.engine import VirtualEngine, VirtualStep
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import CLASSES


class End(Enum):
    """How a request ended."""

    DONE = "done"
    """It has all its tokens."""
    REFUSED = "refused"
    """The scheduler refused it, on arrival or later."""
    EXPIRED = "expired"
    """The scheduler gave it up in the queue, for it was too late."""
    CANCELLED = "cancelled"
    """Its caller hung up while it waited or ran."""


@dataclass(slots=True)
class Outcome:
    """What became of one request; times in seconds of the virtual clock.

    Attributes:
        arrival: The request.
        end: How it ended; None while it has not.
        first_s: When it got its first token, if it did.
        end_s: When it ended.
        computed_tokens: Tokens that engines computed for it.

    """

    arrival: Arrival
    end: End | None = None
    first_s: float | None = None
    end_s: float = 0.0
    computed_tokens: int = 0


def simulate(
    arm: Arm,
    arrivals: Sequence[Arrival],
    *,
    workers: int,
    capacity: BatchCapacity | None = None,
    step_model: StepModel = H200,
) -> list[Outcome]:
    """Serve the arrivals, which are in order of time, and return what became of each, in the same order."""
    engines = [VirtualEngine(f"worker-{n + 1}", capacity or BatchCapacity(), step_model) for n in range(workers)]
    return Simulation(arm, engines).run(arrivals)


class Simulation:
    """One run.

    Time stands still while the scheduler decides. A step's outputs and the engine's counters reach the scheduler when
    the step ends, the outputs one by one and the counters last, as a worker's Step message brings them; what starts
    meanwhile is in the engine for its next step. So the scheduler's knowledge is never older than one step, which is
    well below 100 ms. A caller hangs up when its deadline comes, or its patience ends before the first token; whoever
    serves it is told, engines that run alone included.
    """

    def __init__(self, arm: Arm, engines: Iterable[VirtualEngine]) -> None:
        self._arm = arm
        self._scheduler = arm.scheduler
        self._engines = {engine.worker_id: engine for engine in engines}
        self._in_step: set[str] = set()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serials = count()
        self._outcomes: dict[str, Outcome] = {}
        self._running: dict[str, VirtualEngine] = {}
        self._now = 0.0

    def run(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Run to the end of the last request."""
        for engine in self._engines.values():
            held = engine.capacity
            capacity = Capacity(held.max_sequences, held.kv_cache_tokens, held.max_step_tokens)
            self._carry_out(self._scheduler.join(engine.worker_id, capacity, self._now))
        for number, arrival in enumerate(arrivals):
            request = make_request(arrival, number, self._arm)
            self._outcomes[request.request_id] = Outcome(arrival)
            self._at(arrival.arrival_s, self._arrive, request)
        while self._step_clock():
            pass
        return list(self._outcomes.values())

    def _step_clock(self) -> bool:
        """Let the next thing happen; return False when there is none."""
        due = self._scheduler.next_expiry()
        if due is not None and not (self._events and self._events[0][0] <= due):
            self._expire(due)
        elif self._events:
            self._now, _, act, subject = heappop(self._events)
            act(subject)
        else:
            return False
        for worker_id, engine in self._engines.items():
            if engine and worker_id not in self._in_step:
                self._begin_step(engine)
        return True

    def _at(self, time_s: float, act: Callable[[Any], None], subject: Any) -> None:
        heappush(self._events, (time_s, next(self._serials), act, subject))

    def _arrive(self, request: Request) -> None:
        patience_s = CLASSES[self._outcomes[request.request_id].arrival.service_class].patience_s
        if patience_s is not None:
            self._at(self._now + patience_s, self._lose_patience, request.request_id)
        self._carry_out(self._scheduler.submit(request, self._now))

    def _expire(self, due: float) -> None:
        self._now = max(self._now, due)
        self._carry_out(self._scheduler.expire(self._now))
        following = self._scheduler.next_expiry()
        if following is not None and following <= self._now:
            raise RuntimeError(f"the scheduler is told that it is {self._now} and still waits for {following}")

    def _begin_step(self, engine: VirtualEngine) -> None:
        step = engine.step()
        self._in_step.add(engine.worker_id)
        self._at(self._now + step.outcome.duration_s, self._end_step, (engine, step))

    def _end_step(self, ended: tuple[VirtualEngine, VirtualStep]) -> None:
        engine, step = ended
        self._in_step.remove(engine.worker_id)
        for request_id in step.first:
            if request_id in engine:
                self._outcomes[request_id].first_s = self._now
                self._carry_out(self._scheduler.first_token(request_id, self._now))
        for request_id in step.last:
            if request_id in engine:
                self._stop(request_id, End.DONE)
                output_tokens = self._outcomes[request_id].arrival.output_tokens
                self._carry_out(self._scheduler.finish(request_id, output_tokens, self._now))
        self._report(engine, step)

    def _report(self, engine: VirtualEngine, step: VirtualStep) -> None:
        batch, outcome = engine.batch, step.outcome
        decisions = self._scheduler.report(
            engine.worker_id,
            kv_cache_usage=batch.kv_cache_usage,
            running=batch.running,
            waiting=batch.waiting,
            preemptions=batch.preemptions,
            now=self._now,
            step_s=outcome.duration_s,
            step_tokens=outcome.tokens,
            step_contexts=outcome.contexts,
            step_sequences=outcome.sequences,
        )
        self._carry_out(decisions)

    def _carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Start(request, worker_id):
                    self._start(request, self._engines[worker_id])
                case Reject(request):
                    self._end(request.request_id, End.REFUSED)
                case Expire(request):
                    self._end(request.request_id, End.EXPIRED)
                case Wait():
                    pass
                case _:
                    raise TypeError(f"the driver cannot carry out {decision}")

    def _start(self, request: Request, engine: VirtualEngine) -> None:
        self._running[request.request_id] = engine
        engine.add(
            request.request_id,
            prompt_tokens=request.prompt_tokens,
            output_tokens=self._outcomes[request.request_id].arrival.output_tokens,
            priority=request.priority if self._arm.engine_priority else 0,
        )
        self._at(request.deadline_s, self._cancel, request.request_id)

    def _cancel(self, request_id: str) -> None:
        """The caller hangs up, if the request is not over; a scheduler sees to deadlines in its own queue."""
        if request_id in self._running:
            self._stop(request_id, End.CANCELLED)
        elif self._outcomes[request_id].end is None:
            self._end(request_id, End.CANCELLED)
        else:
            return
        self._carry_out(self._scheduler.withdraw(request_id, self._now))

    def _lose_patience(self, request_id: str) -> None:
        if self._outcomes[request_id].first_s is None:
            self._cancel(request_id)

    def _stop(self, request_id: str, end: End) -> None:
        self._outcomes[request_id].computed_tokens += self._running.pop(request_id).drop(request_id)
        self._end(request_id, end)

    def _end(self, request_id: str, end: End) -> None:
        outcome = self._outcomes[request_id]
        if outcome.end is not None:
            raise RuntimeError(f"request {request_id} is {outcome.end.value} and now {end.value} as well")
        outcome.end, outcome.end_s = end, self._now
