"""The scheduler: facts go in, decisions come out, and nothing else changes its state."""

from dataclasses import dataclass

from scheduler.core.admission import refuse_arrival, refuse_overflow, refuse_unserved
from scheduler.core.decisions import Decision, Expire, Lose, Start, Wait
from scheduler.core.discipline import Books
from scheduler.core.fleet import Capacity, EngineLoad, WorkerState
from scheduler.core.policy import Policy, discipline_of
from scheduler.core.request import Priority, Request


@dataclass(frozen=True, slots=True)
class _Running:
    request: Request
    worker: WorkerState
    started_s: float


class Scheduler:
    """Decides who runs, when and where.

    Every method that takes ``now`` tells it a fact and returns all that follows from it, so that after each call the
    request at the head of the queue is one that no worker has credit for. What may pass the head, and what is given up
    in the queue, is the policy's affair. ``now`` is in
    seconds of one clock that never goes back. Facts about a request or a worker that is no longer known change
    nothing: they crossed the news of its end.

    A request is over, and unknown from then on, by a Reject, an Expire, a Lose, its finish or its withdrawal. Deadlines
    are kept in the queue; a request that runs is stopped by whoever runs it.
    """

    def __init__(self, policy: Policy, max_queued_requests: int) -> None:
        """Let at most ``max_queued_requests`` wait; 0: a request starts at once or is refused."""
        self._max_queued_requests = max_queued_requests
        books = Books()
        self._fleet = books.fleet
        self._output_length = books.output_length
        self._drain_rate = books.drain_rate
        self._discipline = discipline_of(policy, books)
        self._waiting = self._discipline.waiting
        self._running: dict[str, _Running] = {}

    def join(self, worker_id: str, capacity: Capacity, now: float) -> list[Decision]:
        """A worker is there, idle. ValueError when it has joined already."""
        self._fleet.join(worker_id, capacity)
        return [*self._refuse_unserved(), *self._replan(now)]

    def lose(self, worker_id: str, now: float) -> list[Decision]:
        """A worker is gone, and all that ran there. Without any worker left, those that wait keep waiting for one."""
        worker = self._fleet.lose(worker_id)
        lost = [self._forget(request_id, now).request for request_id in worker.request_ids] if worker else []
        return [*(Lose(request, worker_id) for request in lost), *self._refuse_unserved(), *self._replan(now)]

    def report(
        self,
        worker_id: str,
        *,
        kv_cache_usage: float,
        running: int,
        waiting: int,
        preemptions: int,
        now: float,
        step_s: float | None = None,
        step_tokens: int = 0,
        step_contexts: int = 0,
        step_sequences: int = 0,
    ) -> list[Decision]:
        """A worker's engine reports its counters; ``EngineLoad`` says what they are.

        Args:
            worker_id: Which worker.
            kv_cache_usage: See EngineLoad.
            running: See EngineLoad.
            waiting: See EngineLoad.
            preemptions: See EngineLoad.
            now: The time.
            step_s: Seconds that its last step took; None: unknown.
            step_tokens: Tokens of that step, prefill and decode together.
            step_contexts: Sum of the contexts of the sequences that decoded in it.
            step_sequences: Sequences that ran in it.

        """
        if worker := self._fleet.get(worker_id):
            worker.report(EngineLoad(kv_cache_usage, running, waiting, preemptions), now)
            if step_s is not None:
                worker.report_step(step_s, step_tokens, step_contexts, step_sequences)
            self._discipline.reported(worker, now)
        return self._replan(now)

    def submit(self, request: Request, now: float) -> list[Decision]:
        """A request arrives; the last decision is about it: Start, Wait or Reject. Others may be refused in its favour.

        A request that can start at once does, however full the queue is. ValueError when one of the same id waits or
        runs.
        """
        if request.request_id in self._waiting or request.request_id in self._running:
            raise ValueError(f"request {request.request_id} has been submitted already")
        settled = self._replan(now)
        if refusal := refuse_arrival(request, self._fleet, now):
            return [*settled, refusal]
        if refusal := self._discipline.admit(request, now):
            return [*settled, refusal]
        decisions = self._replan(now)
        if request.request_id in self._waiting:
            decisions.append(self._keep_waiting(request))
        return [*settled, *sorted(decisions, key=lambda decision: decision.request is request)]

    def first_token(self, request_id: str, now: float) -> list[Decision]:
        """A running request has its first token: its prefill is done."""
        if running := self._running.get(request_id):
            running.worker.first_token(request_id)
        return self._replan(now)

    def finish(self, request_id: str, output_tokens: int, now: float) -> list[Decision]:
        """A running request has ended by itself, with ``output_tokens`` in all its sequences together."""
        if running := self._release(request_id, now):
            self._output_length.observe(running.request, output_tokens)
            self._discipline.completed(running.request, now)
        return self._replan(now)

    def withdraw(self, request_id: str, now: float) -> list[Decision]:
        """A request is called off, wherever it is. Its output so far says nothing about others'."""
        if self._waiting.remove(request_id) is None:
            self._release(request_id, now)
        return self._replan(now)

    def expire(self, now: float) -> list[Decision]:
        """Time has passed; to be told when ``next_expiry`` comes."""
        return self._replan(now)

    def next_expiry(self) -> float | None:
        """When time alone next changes something, on the clock of ``now``; None when nothing waits."""
        return self._discipline.next_due_s()

    def position(self, request_id: str) -> tuple[int, float | None]:
        """A waiting request's position and estimated wait in seconds, as in Wait. KeyError when it does not wait."""
        return self._waiting.position(request_id), self._discipline.wait_s(request_id)

    def waiting_by_priority(self) -> dict[Priority, int]:
        """How many requests wait, for every priority."""
        return {priority: self._waiting.count(priority) for priority in Priority}

    def workers(self) -> list[WorkerState]:
        """The workers' ledgers, in order of joining; to be read only."""
        return list(self._fleet)

    def _replan(self, now: float) -> list[Decision]:
        expired = self._waiting.remove_expired(now)
        refused = self._discipline.shed(now)
        started = self._start_ready(now)
        self._drain_rate.observe(len(started), len(self._waiting), now)
        return [*(Expire(request) for request in expired), *refused, *started]

    def _start_ready(self, now: float) -> list[Start]:
        started = []
        while placement := self._discipline.next_start(now):
            request, worker, expected_tokens = placement
            self._waiting.remove(request.request_id)
            worker.reserve(request, expected_tokens)
            self._running[request.request_id] = _Running(request, worker, now)
            self._discipline.started(placement, now)
            started.append(Start(request, worker.worker_id))
        return started

    def _keep_waiting(self, request: Request) -> Decision:
        if len(self._waiting) > self._max_queued_requests:
            self._waiting.remove(request.request_id)
            return refuse_overflow(request, self._drain_rate.wait_s(len(self._waiting)))
        return Wait(request, *self.position(request.request_id))

    def _refuse_unserved(self) -> list[Decision]:
        """Refuse what fits none of the workers there are: at the head of the queue it would block all the others."""
        if not self._fleet:
            return []
        unserved = [request for request in self._waiting if not self._fleet.fits(request)]
        for request in unserved:
            self._waiting.remove(request.request_id)
        return [refuse_unserved(request) for request in unserved]

    def _release(self, request_id: str, now: float) -> _Running | None:
        if request_id not in self._running:
            return None
        running = self._forget(request_id, now)
        running.worker.release(request_id)
        return running

    def _forget(self, request_id: str, now: float) -> _Running:
        running = self._running.pop(request_id)
        self._discipline.released(running.request, started_s=running.started_s, now=now)
        return running
