"""A plain model of what the scheduler promises: it hears facts and decisions and objects to any that breaks a rule."""

import math
from dataclasses import dataclass, field

from scheduler.core.decisions import Decision, Expire, Lose, Reject, RejectReason, Start, Wait
from scheduler.core.fleet import Capacity, WorkerState
from scheduler.core.policy import Order
from scheduler.core.request import Priority, Request


@dataclass
class Placed:
    request: Request
    worker_id: str
    kv_tokens: int
    prefill_tokens: int


@dataclass
class Reference:
    policy: Order
    max_queued_requests: int
    waiting: list[Request] = field(default_factory=list)
    running: dict[str, Placed] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    resuming: list[Request] = field(default_factory=list)
    queued: set[str] = field(default_factory=set)
    workers: dict[str, Capacity] = field(default_factory=dict)
    outputs: dict[Priority, list[int]] = field(default_factory=lambda: {priority: [] for priority in Priority})

    def end(self, request_id: str) -> None:
        assert request_id not in self.over, f"{request_id} ended twice"
        self.over.append(request_id)

    def known(self) -> list[str]:
        return [*self.running, *(request.request_id for request in [*self.resuming, *self.waiting])]

    def withdraw(self, request_id: str) -> None:
        self.running.pop(request_id, None)
        self.waiting = [request for request in self.waiting if request.request_id != request_id]
        self.resuming = [request for request in self.resuming if request.request_id != request_id]
        self.end(request_id)

    def finish(self, request_id: str, output_tokens: int) -> None:
        request = self.running.pop(request_id).request
        request = request.resumes or request
        self.outputs[request.priority].append(math.ceil(output_tokens / request.sequences))
        self.end(request_id)

    def resume(self, request: Request) -> None:
        """A request that its worker has lost, or does not take, lives on."""
        if request.request_id in self.over:
            self.over.remove(request.request_id)
        self.running.pop(request.request_id, None)
        self.resuming.append(request)
        self.resuming.sort(key=lambda each: each.deadline_s)

    def submit(self, request: Request) -> None:
        self.waiting.append(request)
        self.waiting.sort(key=self.policy.key)

    def hear(self, decisions: list[Decision], ledgers: dict[str, WorkerState], now: float) -> None:
        """Go through the decisions of one call in order. ``ledgers``: the workers' KV limits are taken from it."""
        for decision in decisions:
            match decision:
                case Start(request, worker_id):
                    self._start(request, ledgers[worker_id], now)
                case Wait(request, position, estimated_wait_s):
                    assert self.waiting.index(request) == position
                    assert len(self.waiting) <= self.max_queued_requests
                    assert estimated_wait_s is None or 0 <= estimated_wait_s < math.inf
                    self.queued.add(request.request_id)
                case Reject(request, reason, retry_after_s):
                    self.waiting.remove(request)
                    self.end(request.request_id)
                    self._check_reason(request, reason, retry_after_s, now)
                case Expire(request):
                    assert request.deadline_s <= now
                    (self.resuming if request.resumes else self.waiting).remove(request)
                    self.end(request.request_id)
                case Lose(request, worker_id):
                    assert worker_id not in self.workers
                    assert self.running.pop(request.request_id).worker_id == worker_id
                    self.end(request.request_id)

    def check(self, ledgers: dict[str, WorkerState], now: float) -> None:
        """After a call: nothing more could be decided, and the ledgers say what has been decided."""
        expected = [*self.resuming, *self.waiting]
        assert all(request.deadline_s > now for request in expected), "an expired request still waits"
        held_up = any(self._fits_somewhere(request) for request in self.resuming)
        assert all(self._fits_somewhere(request) for request in self.waiting if self.workers), "blocks the queue"
        assert list(ledgers) == list(self.workers)
        assert all(placed.worker_id in self.workers for placed in self.running.values())
        for worker in ledgers.values():
            placed = self._on(worker.worker_id)
            assert worker.request_ids == [each.request.request_id for each in placed]
            assert worker.sequences == sum(each.request.sequences for each in placed)
            assert worker.kv_tokens == sum(each.kv_tokens for each in placed)
            assert worker.prefill_tokens == sum(each.prefill_tokens for each in placed)
            for request in [*self.resuming, *([] if held_up else self.waiting[:1])]:
                assert not self._has_credit(request, worker), "the head could start"
        if self.waiting and not held_up:
            self._check_beside(self.waiting[0], list(ledgers.values()))

    def _check_beside(self, head: Request, workers: list[WorkerState]) -> None:
        """Nobody waits for the head's sake for a worker on which it can never run."""
        others = [each for each in workers if each.is_open and not self._fits(head, self.workers[each.worker_id])]
        fitting = (each for each in self.waiting if any(self._fits(each, other.capacity) for other in others))
        if first := next(fitting, None):
            assert not any(self._has_credit(first, other) for other in others), "the head keeps others out for nothing"

    def _start(self, request: Request, worker: WorkerState, now: float) -> None:
        assert request.deadline_s > now, "started after its deadline"
        assert self._has_credit(request, worker), "started without credit"
        if request.resumes:
            self.resuming.remove(request)
        else:
            assert not any(map(self._fits_somewhere, self.resuming)), "passed one that had started before"
            place = self.waiting.index(request)
            capacity = self.workers[worker.worker_id]
            earlier = [each for each in self.waiting[:place] if self._fits(each, capacity)]
            assert not earlier, "passed one that could run there"
            del self.waiting[place]
        kv_tokens = self._kv_tokens(request)
        self.running[request.request_id] = Placed(request, worker.worker_id, kv_tokens, request.prompt_tokens)

    def _check_reason(self, request: Request, reason: RejectReason, retry_after_s: float | None, now: float) -> None:
        fits = self._fits_somewhere(request)
        assert (reason is RejectReason.DEADLINE_PASSED) <= (request.deadline_s <= now)
        assert (reason is RejectReason.TOO_LARGE) <= (not fits and bool(self.workers))
        assert (reason is RejectReason.NO_WORKER) <= (not fits)
        assert (request.request_id in self.queued) <= (reason is RejectReason.NO_WORKER and bool(self.workers))
        assert (reason is RejectReason.QUEUE_FULL) <= (len(self.waiting) == self.max_queued_requests)
        final = reason is RejectReason.TOO_LARGE
        assert (retry_after_s is None) == final

    def _has_credit(self, request: Request, worker: WorkerState) -> bool:
        capacity = self.workers[worker.worker_id]
        placed = self._on(worker.worker_id)
        if not placed:
            return self._fits(request, capacity)
        reported = int(worker.load.kv_cache_usage * capacity.kv_cache_tokens)
        kv_in_use = max(sum(each.kv_tokens for each in placed), reported)
        return (
            request.prompt_tokens + request.max_tokens <= capacity.context_tokens
            and sum(each.prefill_tokens for each in placed) < capacity.max_step_tokens
            and sum(each.request.sequences for each in placed) + request.sequences <= capacity.max_sequences
            and kv_in_use + self._kv_tokens(request) <= worker.kv_limit_tokens <= 0.97 * capacity.kv_cache_tokens
        )

    def _on(self, worker_id: str) -> list[Placed]:
        return [placed for placed in self.running.values() if placed.worker_id == worker_id]

    def _kv_tokens(self, request: Request) -> int:
        outputs = self.outputs[request.priority][-400:]
        mean = math.ceil(sum(outputs) / len(outputs)) if outputs else 16
        return request.prompt_tokens + request.sequences * max(1, min(mean, request.max_tokens))

    def _fits_somewhere(self, request: Request) -> bool:
        return any(self._fits(request, capacity) for capacity in self.workers.values())

    @staticmethod
    def _fits(request: Request, capacity: Capacity) -> bool:
        return (
            request.prompt_tokens < capacity.kv_cache_tokens
            and request.sequences <= capacity.max_sequences
            and request.prompt_tokens + request.max_tokens <= capacity.context_tokens
        )
