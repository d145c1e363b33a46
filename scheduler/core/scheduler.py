"""The scheduler: facts go in, decisions come out, and nothing else changes its state."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.core.admission import refuse_arrival, refuse_excess, refuse_overflow, refuse_unserved
from scheduler.core.decisions import Decision, Expire, Lose, Outlook, Reject, Start, Wait
from scheduler.core.discipline import Books, Placement
from scheduler.core.fleet import Capacity, EngineLoad, WorkerState
from scheduler.core.policy import Policy, discipline_of
from scheduler.core.queue import WaitingQueue
from scheduler.core.quota import Quota, Quotas
from scheduler.core.request import Request
from scheduler.core.service_time import service_time


@dataclass(frozen=True, slots=True)
class _Running:
    request: Request
    worker: WorkerState
    started_s: float


class Scheduler:
    """Decides who runs, when and where.

    Every method that takes ``now`` tells it a fact and returns all that follows from it, so that after each call the
    request at the head of the queue is one that no worker has credit for. What may pass the head, and what is given up
    in the queue, is the policy's affair. ``now`` is in seconds of one clock that never goes back. Facts about a request
    or a worker that is no longer known change nothing: they crossed the news of its end.

    A request is over, and unknown from then on, by a Reject, an Expire, a Lose, its finish or its withdrawal. Deadlines
    are kept in the queue; a request that runs is stopped by whoever runs it.

    One that is over by a Lose, or that its worker would not take, may be resumed: it then lives on under its id.

    Attributes:
        max_queued_requests: How many may wait. It may be changed; those that wait already stay.

    """

    def __init__(self, policy: Policy, max_queued_requests: int, quotas: Quotas | None = None) -> None:
        """Let at most ``max_queued_requests`` wait; 0: a request starts at once or is refused."""
        self.max_queued_requests = max_queued_requests
        books = Books()
        self._fleet = books.fleet
        self._output_length = books.output_length
        self._drain_rate = books.drain_rate
        self._discipline = discipline_of(policy, books)
        self._quotas = quotas or Quotas()
        self._waiting = self._discipline.waiting
        self._resuming = WaitingQueue(lambda request: request.deadline_s)
        self._running: dict[str, _Running] = {}

    def join(self, worker_id: str, capacity: Capacity, now: float, *, on_trial: bool = False) -> list[Decision]:
        """A worker is there, idle. ValueError when it has joined already.

        On trial it runs one request at a time, while others are trusted, until it is too.
        """
        self._fleet.join(worker_id, capacity, on_trial=on_trial)
        return [*self._refuse_unserved(), *self._replan(now)]

    def lose(self, worker_id: str, now: float) -> list[Decision]:
        """A worker is gone, and all that ran there. Without any worker left, those that wait keep waiting for one."""
        worker = self._fleet.lose(worker_id)
        lost = [self._forget(request_id, now).request for request_id in worker.request_ids] if worker else []
        for request in lost:
            self._quotas.leave(request, used_tokens=0)
        return [*(Lose(request, worker_id) for request in lost), *self._refuse_unserved(), *self._replan(now)]

    def set_quota(self, tenant: str | None, quota: Quota, now: float) -> None:
        """From now on a tenant may use so much; None: each that has no quota of its own."""
        self._quotas.change(tenant, quota, now)

    def set_weight(self, tenant: str, weight: float) -> None:
        """From now on a tenant is entitled to such a share, relative to 1 for others."""
        self._discipline.entitle(tenant, weight)

    def trust(self, worker_id: str, now: float) -> list[Decision]:
        """A worker is on trial no more."""
        self._fleet.trust(worker_id)
        return self._replan(now)

    def rest(self, worker_id: str, now: float) -> list[Decision]:
        """A worker is to be given nothing more; what runs there goes on. KeyError when it is not there."""
        self._fleet.rest(worker_id)
        return [*self._refuse_unserved(), *self._replan(now)]

    def wake(self, worker_id: str, now: float) -> list[Decision]:
        """A worker is to be given requests again. KeyError when it is not there."""
        self._fleet.wake(worker_id)
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
        if worker := self._fleet.known(worker_id):
            worker.report(EngineLoad(kv_cache_usage, running, waiting, preemptions), now)
            if step_s is not None:
                worker.report_step(step_s, step_tokens, step_contexts, step_sequences)
            self._discipline.reported(worker, now)
        return self._replan(now)

    def submit(self, request: Request, now: float) -> list[Decision]:
        """A request arrives; one decision is about it: Start, Wait or Reject. Others may be refused in its favour.

        A request that can start at once does, however full the queue is. ValueError when one of the same id waits or
        runs.
        """
        if any(request.request_id in known for known in (self._waiting, self._resuming, self._running)):
            raise ValueError(f"request {request.request_id} has been submitted already")
        settled = self._settle(now)  # nothing starts yet: what time has freed may be for the newcomer
        if refusal := self._refuse_at_the_door(request, now):
            return [*settled, refusal, *self._start_ready(now)]
        self._quotas.enter(request, self._expected_use(request), now)
        if refusal := self._discipline.admit(request, now):
            return [*settled, self._given_up(refusal), *self._start_ready(now)]
        decisions = self._replan(now)
        if request.request_id in self._waiting:
            decisions.append(self._keep_waiting(request))
        return [*settled, *decisions]

    def resume(self, request: Request, now: float) -> list[Decision]:
        """A request that had started needs another worker; ``request.resumes`` says what it was on arrival.

        It goes before all that has not started, is refused for nobody's sake, and waits until its deadline for a worker
        that can hold it. ValueError when one of its id waits.
        """
        if request.request_id in self._waiting or request.request_id in self._resuming:
            raise ValueError(f"request {request.request_id} waits already")
        if refused := self._release(request.request_id, now):
            self._quotas.leave(refused.request, used_tokens=0)
        self._quotas.enter(request, self._expected_use(request), now)
        self._resuming.push(request)
        return self._replan(now)

    def explain(self, request: Request, now: float) -> Outlook:
        """Tell what ``submit`` would answer, and when the request would then have its tokens; nothing changes.

        A request that would wait may yet start at once in place of a larger one that has no room in the KV cache.
        """
        expected_tokens = self._output_length.expected_tokens(request)
        if refusal := self._refuse_at_the_door(request, now):
            return Outlook(refusal, "", Wait(request, len(self._waiting), None), expected_tokens, None, None)
        refusal, position, wait_s, promised, placement, refused = self._discipline.consider(request, now)
        placement = None if self._is_held_up() else placement
        if not refusal and not placement and len(self._waiting) - refused >= self._places(promised=promised):
            refusal = self._refuse_overflow(request)
        served = service_time(self._fleet, request, expected_tokens)
        first_token_s = None if wait_s is None or served is None else wait_s + served.prefill_s
        return Outlook(
            refusal,
            placement.worker.worker_id if placement else "",
            Wait(request, position, wait_s, promised and not refusal),
            expected_tokens,
            first_token_s,
            None if first_token_s is None or served is None else first_token_s + served.decode_s,
        )

    def first_token(self, request_id: str, now: float) -> list[Decision]:
        """A running request has its first token: its prefill is done."""
        if running := self._running.get(request_id):
            running.worker.first_token(request_id)
        return self._replan(now)

    def finish(self, request_id: str, output_tokens: int, now: float) -> list[Decision]:
        """A running request has ended by itself, with ``output_tokens`` in all its sequences and lives together."""
        if running := self._release(request_id, now):
            request = running.request.resumes or running.request
            self._output_length.observe(request, output_tokens)
            self._quotas.leave(request, request.prompt_tokens + output_tokens)
            self._discipline.completed(request, now)
        return self._replan(now)

    def withdraw(self, request_id: str, now: float) -> list[Decision]:
        """A request is called off, wherever it is. Its output so far says nothing about others'."""
        if waiting := self._waiting.remove(request_id) or self._resuming.remove(request_id):
            self._quotas.leave(waiting, used_tokens=0)
        elif running := self._release(request_id, now):
            self._quotas.leave(running.request, used_tokens=None)
        return self._replan(now)

    def expire(self, now: float) -> list[Decision]:
        """Time has passed; to be told when ``next_expiry`` comes."""
        return self._replan(now)

    def next_expiry(self) -> float | None:
        """When time alone next changes something, on the clock of ``now``; None when nothing waits."""
        due_s = self._discipline.next_due_s(), self._resuming.next_deadline_s()
        return min((each for each in due_s if each is not None), default=None)

    def place(self, request_id: str) -> Wait:
        """A waiting request's place in the queue. KeyError when it does not wait."""
        position, wait_s = self._waiting.position(request_id), self._discipline.wait_s(request_id)
        return Wait(self._waiting.get(request_id), position, wait_s, self._discipline.is_promised(request_id))

    @property
    def waiting(self) -> int:
        """How many requests wait, to start or to go on."""
        return len(self._waiting) + len(self._resuming)

    def waiting_by_class(self) -> Mapping[str, int]:
        """How many requests of each class wait; classes that none has waited of are not named."""
        counts = Counter(self._waiting.counts())
        counts.update(self._resuming.counts())
        return counts

    def workers(self) -> list[WorkerState]:
        """The ledgers of the workers that are given requests, in order of joining; to be read only."""
        return list(self._fleet)

    def worker(self, worker_id: str) -> WorkerState | None:
        """The ledger of a worker, though it may rest; None when it has not joined. To be read only."""
        return self._fleet.known(worker_id)

    def resting_workers(self) -> list[WorkerState]:
        """The ledgers of those that rest."""
        return self._fleet.resting()

    def _replan(self, now: float) -> list[Decision]:
        return [*self._settle(now), *self._start_ready(now)]

    def _settle(self, now: float) -> list[Decision]:
        """Give up what time has made hopeless."""
        expired = [*self._resuming.remove_expired(now), *self._waiting.remove_expired(now)]
        for request in expired:
            self._quotas.leave(request, used_tokens=0)
        refused = [self._given_up(refusal) for refusal in self._discipline.shed(now)]
        return [*(Expire(request) for request in expired), *refused]

    def _start_ready(self, now: float) -> list[Start]:
        started = []
        while placement := self._next_start(now):
            request, worker, expected_tokens = placement
            promised = self._discipline.is_promised(request.request_id)
            queue = self._resuming if request.resumes else self._waiting
            queue.remove(request.request_id)
            worker.reserve(request, expected_tokens)
            self._running[request.request_id] = _Running(request, worker, now)
            self._discipline.started(placement, now)
            started.append(Start(request, worker.worker_id, promised))
        self._drain_rate.observe(len(started), len(self._waiting), now)
        return started

    def _next_start(self, now: float) -> Placement | None:
        """Who starts next: what had started before, and nobody while some of that waits for a busy worker."""
        for request in self._resuming:
            if placement := self._discipline.place(request):
                return placement
        return None if self._is_held_up() else self._discipline.next_start(now)

    def _is_held_up(self) -> bool:
        """Whether what had started before waits for a worker that is there."""
        return any(map(self._fleet.fits, self._resuming))

    def _keep_waiting(self, request: Request) -> Decision:
        if len(self._waiting) > self._places(promised=self._discipline.is_promised(request.request_id)):
            self._waiting.remove(request.request_id)
            return self._given_up(self._refuse_overflow(request))
        return self.place(request.request_id)

    def _places(self, *, promised: bool) -> int:
        return self._discipline.open_places(self.max_queued_requests, promised=promised)

    def _refuse_at_the_door(self, request: Request, now: float) -> Reject | None:
        if refusal := refuse_arrival(request, self._fleet, now):
            return refusal
        excess = self._quotas.excess(request, self._expected_use(request), now)
        return refuse_excess(request, excess) if excess else None

    def _refuse_overflow(self, request: Request) -> Reject:
        return refuse_overflow(request, self._drain_rate.wait_s(len(self._waiting)))

    def _expected_use(self, request: Request) -> int:
        return request.prompt_tokens + request.sequences * self._output_length.expected_tokens(request)

    def _given_up(self, refusal: Reject) -> Reject:
        self._quotas.leave(refusal.request, used_tokens=0)
        return refusal

    def _refuse_unserved(self) -> list[Decision]:
        """Refuse what fits none of the workers there are: at the head of the queue it would block all the others."""
        if not self._fleet:
            return []
        unserved = [request for request in self._waiting if not self._fleet.fits(request)]
        for request in unserved:
            self._waiting.remove(request.request_id)
        return [self._given_up(refuse_unserved(request)) for request in unserved]

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
