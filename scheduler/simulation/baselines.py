"""What one would use instead: engines that queue by themselves, and deadlines without feasibility.

Each is told the same facts as the core and answers with the same decisions.
"""

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from scheduler.core.decisions import Decision, Expire, Reject, RejectReason, Start, Wait
from scheduler.core.estimate import OutputLength
from scheduler.core.fleet import Capacity, EngineLoad, Fleet, WorkerState
from scheduler.core.placement import choose_worker
from scheduler.core.request import Request
from scheduler.core.service_class import ServiceClass

WAITING_WEIGHT = 4
# The step under way when a request starts, and what is outstanding before it. Without them nearly all that starts at
# the last moment is late, which costs this policy 0.07 at load 1.5.
STEPS_BEFORE_PREFILL = 2
STEP_MEMORY = 0.05


@dataclass(slots=True)
class _Pushed:
    """The requests of one worker, as the balancer in front of it counts them."""

    worker_id: str
    waiting: int = 0
    running: int = 0


class PushEverything:
    """Vllm alone: every request goes into an engine at once, and waits there.

    Among several engines the one with the least ``4 * waiting + running`` is taken, as vLLM's own balancer does. With
    a limit, a request that finds so many without a first token in every engine is refused, as a proxy with a 429 does.
    """

    def __init__(self, max_waiting: int | None = None) -> None:
        """Let at most ``max_waiting`` wait in each engine; None: any number."""
        self._max_waiting = max_waiting
        self._workers: list[_Pushed] = []
        self._requests: dict[str, tuple[_Pushed, bool]] = {}

    def join(self, worker_id: str, capacity: Capacity, now: float) -> list[Decision]:
        """See Scheduler.join."""
        self._workers.append(_Pushed(worker_id))
        return []

    def submit(self, request: Request, now: float) -> list[Decision]:
        """See Scheduler.submit."""
        worker = min(self._workers, key=lambda each: WAITING_WEIGHT * each.waiting + each.running)
        if self._max_waiting is not None and worker.waiting >= self._max_waiting:
            return [Reject(request, RejectReason.QUEUE_FULL, 1.0)]
        worker.waiting += 1
        self._requests[request.request_id] = worker, True
        return [Start(request, worker.worker_id)]

    def first_token(self, request_id: str, now: float) -> list[Decision]:
        """See Scheduler.first_token."""
        worker, _ = self._requests[request_id]
        worker.waiting -= 1
        worker.running += 1
        self._requests[request_id] = worker, False
        return []

    def finish(self, request_id: str, output_tokens: int, now: float) -> list[Decision]:
        """See Scheduler.finish."""
        return self.withdraw(request_id, now)

    def withdraw(self, request_id: str, now: float) -> list[Decision]:
        """See Scheduler.withdraw."""
        worker, waiting = self._requests.pop(request_id)
        if waiting:
            worker.waiting -= 1
        else:
            worker.running -= 1
        return []

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
        """See Scheduler.report."""
        return []

    def expire(self, now: float) -> list[Decision]:
        """See Scheduler.expire."""
        return []

    def next_expiry(self) -> float | None:
        """See Scheduler.next_expiry."""
        return None


class EdfDropLate:
    """The earliest latest start first; what can no longer be on time is dropped.

    It has what the core's own policies have: late binding by the core's credits (slots, KV cache, outstanding prefill
    below one step), the core's placement, mean output lengths by class, and the true prefill time of the engine. It
    lacks the foresight: a request is dropped when it is late itself, not when the queue as a whole will be.
    """

    def __init__(self, promises: Mapping[str, ServiceClass], prefill_token_s: float) -> None:
        """``prefill_token_s``: what a token of a prompt takes in a full step, decodes beside it included."""
        self._promises = promises
        self._prefill_token_s = prefill_token_s
        self._output = OutputLength()
        self._step_s = 0.0
        self._fleet = Fleet()
        self._serials = count()
        self._waiting: list[tuple[float, int, Request]] = []
        self._running: dict[str, tuple[Request, WorkerState]] = {}

    def join(self, worker_id: str, capacity: Capacity, now: float) -> list[Decision]:
        """See Scheduler.join."""
        self._fleet.join(worker_id, capacity)
        return self._replan(now)

    def submit(self, request: Request, now: float) -> list[Decision]:
        """See Scheduler.submit."""
        insort(self._waiting, (self._latest_start_s(request), next(self._serials), request))
        return self._replan(now) or [Wait(request, len(self._waiting) - 1, None)]

    def first_token(self, request_id: str, now: float) -> list[Decision]:
        """See Scheduler.first_token."""
        self._running[request_id][1].first_token(request_id)
        return self._replan(now)

    def finish(self, request_id: str, output_tokens: int, now: float) -> list[Decision]:
        """See Scheduler.finish."""
        request, _ = self._running[request_id]
        self._output.observe(request, output_tokens)
        return self.withdraw(request_id, now)

    def withdraw(self, request_id: str, now: float) -> list[Decision]:
        """See Scheduler.withdraw. Only what runs is ever called off: what waits is dropped before patience ends."""
        _, worker = self._running.pop(request_id)
        worker.release(request_id)
        return self._replan(now)

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
        """See Scheduler.report."""
        if worker := self._fleet.get(worker_id):
            worker.report(EngineLoad(kv_cache_usage, running, waiting, preemptions), now)
        if step_s is not None:
            self._step_s += STEP_MEMORY * (step_s - self._step_s)
        return self._replan(now)

    def expire(self, now: float) -> list[Decision]:
        """See Scheduler.expire."""
        return self._replan(now)

    def next_expiry(self) -> float | None:
        """See Scheduler.next_expiry."""
        return self._waiting[0][0] if self._waiting else None

    def _latest_start_s(self, request: Request) -> float:
        """When the request must start to be on time, as things stand."""
        promise = self._promises[request.class_name]
        prefill_s = request.prompt_tokens * self._prefill_token_s + STEPS_BEFORE_PREFILL * self._step_s
        decode_s = self._output.expected_tokens(request) * self._step_s
        first = math.inf if promise.ttft_s is None else promise.ttft_s - prefill_s
        last = math.inf if promise.e2e_s is None else promise.e2e_s - prefill_s - decode_s
        return min(request.arrival_s + min(first, last), request.deadline_s)

    def _replan(self, now: float) -> list[Decision]:
        dropped: list[Decision] = []
        while self._waiting and self._waiting[0][0] <= now:
            dropped.append(Expire(self._waiting.pop(0)[2]))
        return [*dropped, *self._start_ready()]

    def _start_ready(self) -> list[Decision]:
        started: list[Decision] = []
        while self._waiting:
            request = self._waiting[0][2]
            expected_tokens = self._output.expected_tokens(request)
            worker = choose_worker(self._fleet, request, expected_tokens)
            if worker is None:
                break
            self._waiting.pop(0)
            worker.reserve(request, expected_tokens)
            self._running[request.request_id] = request, worker
            started.append(Start(request, worker.worker_id))
        return started
