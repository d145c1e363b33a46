"""The workers and what they have left: a capacity ledger for each, kept by the scheduler alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.core.kv_share import KvShare
from scheduler.core.prefill_bucket import PrefillBucket
from scheduler.core.prefix_memory import PrefixMemory
from scheduler.core.request import Request
from scheduler.core.step_model import StepModel

STEP_MEMORY_S = 1.0
LEAST_STEP_S = 1e-4


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a worker's engine holds at once.

    Attributes:
        max_sequences: Sequences that run together.
        kv_cache_tokens: Tokens that the KV cache holds.
        max_step_tokens: Tokens of one engine step, prefill and decode together.
        steps_ahead: Steps that are on their way before what an earlier one brought is known here.
        context_tokens: Tokens of a prompt and its answer together.

    """

    max_sequences: int
    kv_cache_tokens: int
    max_step_tokens: int
    steps_ahead: int = 0
    context_tokens: float = math.inf

    @property
    def prefill_tokens(self) -> int:
        """Outstanding prefill with which no step goes half empty while news of it and answers to it travel."""
        return self.max_step_tokens * (1 + self.steps_ahead)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's own counters, as its worker last reported them.

    Attributes:
        kv_cache_usage: Share of the KV cache in use, 0 to 1.
        running: Requests in the engine's batch.
        waiting: Requests in the engine that wait for the batch.
        preemptions: Preemptions since the worker started.

    """

    kv_cache_usage: float = 0.0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Reservation:
    sequences: int
    kv_tokens: int
    prefill_tokens: int
    context_tokens: int = 0


class WorkerState:
    """The capacity ledger of one worker: what the requests running there have reserved.

    Attributes:
        worker_id: The worker's id.
        capacity: What it holds at once.
        load: What its engine last reported.
        sequences: Sequences reserved.
        kv_tokens: KV cache tokens reserved: each request's prompt and the expected output of all its sequences.
        prefill_tokens: Outstanding prefill: prompt tokens of the requests that have no first token yet.
        pending_prefill_tokens: Outstanding prefill less what the reported steps have done of it.
        decoding: Sequences that have their first token.
        context_tokens: Sum of their contexts as expected half-way through their answers.
        prefill_bucket: Prefill that may start before decoding would suffer.
        step_model: How long its steps take.
        recent_steps_per_s: Rate of its steps, over about the last second of them; 0 before the first.
        prefill_token_s: Seconds per prompt token at its present pace; set by whoever plans.
        prefixes: Beginnings of prompts that it saw last.
        on_trial: Whether it has failed and not yet proved itself.
        is_open: Whether it could run one sequence more now if the KV cache were without limit.

    """

    def __init__(self, worker_id: str, capacity: Capacity, changed: dict[str, "WorkerState"] | None = None) -> None:
        """Begin with an empty ledger. Whenever it changes, the worker is put into ``changed``."""
        self.worker_id = worker_id
        self.capacity = capacity
        self.load = EngineLoad()
        self.sequences = 0
        self.kv_tokens = 0
        self.prefill_tokens = 0
        self.pending_prefill_tokens = 0
        self.decoding = 0
        self.context_tokens = 0
        self.prefill_bucket = PrefillBucket()
        self.step_model = StepModel()
        self.recent_steps_per_s = 0.0
        self.prefill_token_s = 0.0
        self.prefixes = PrefixMemory()
        self.on_trial = False
        self._takes_one = False
        self._kv_share = KvShare()
        self._reservations: dict[str, _Reservation] = {}
        self._prefilling: dict[str, int] = {}
        self._prefilled_tokens = 0
        self._decoded_tokens = 0
        self._changed = {} if changed is None else changed
        self._note_change()

    @property
    def request_ids(self) -> list[str]:
        """The requests that run there, in order of their start."""
        return list(self._reservations)

    @property
    def kv_limit_tokens(self) -> int:
        """KV cache tokens that may be given out."""
        return int(self._kv_share.value * self.capacity.kv_cache_tokens)

    @property
    def free_kv_tokens(self) -> int:
        """KV cache tokens that may still be given out, by the ledger or the engine's report, whichever holds more.

        Below 0 when an idle worker took a request above the limit or answers turned out long.
        """
        in_use = int(self.load.kv_cache_usage * self.capacity.kv_cache_tokens)
        return self.kv_limit_tokens - max(self.kv_tokens, in_use)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step with what runs there now: all that decodes, and as much prefill as a step has room for."""
        return min(self.decoding + self.pending_prefill_tokens, self.capacity.max_step_tokens)

    @property
    def slow_step_s(self) -> float:
        """Seconds that such a step may well take."""
        return self.step_model.slow_step_s(self.step_tokens, self.context_tokens, self.sequences)

    def fits(self, request: Request) -> bool:
        """Whether the worker could run the request if it ran nothing else."""
        return (
            request.context_tokens <= self.capacity.context_tokens
            and request.prompt_tokens + 1 <= self.capacity.kv_cache_tokens
            and request.sequences <= self.capacity.max_sequences
        )

    def can_run(self, request: Request, expected_tokens: int) -> bool:
        """Whether the worker has the credit to run the request now.

        An idle worker takes whatever fits, so that nothing waits for ever. Prefill counts only what is outstanding: a
        prompt of any length may start while less is than the steps on their way take. The prefill bucket protects those
        that decode: it may be overdrawn by one prompt, and does not count while nothing decodes.
        """
        if not self._reservations:
            return self.fits(request)
        return (
            self.is_open
            and request.context_tokens <= self.capacity.context_tokens
            and self.sequences + request.sequences <= self.capacity.max_sequences
            and _kv_tokens(request, expected_tokens) <= self.free_kv_tokens
        )

    def reserve(self, request: Request, expected_tokens: int) -> None:
        """Give the request its share of the worker. ``expected_tokens``: output to expect of each sequence."""
        reservation = _Reservation(request.sequences, _kv_tokens(request, expected_tokens), request.prompt_tokens)
        self._reservations[request.request_id] = reservation
        self.sequences += reservation.sequences
        self.kv_tokens += reservation.kv_tokens
        self.prefill_tokens += reservation.prefill_tokens
        self.prefill_bucket.take(reservation.prefill_tokens)
        self._prefilling[request.request_id] = reservation.prefill_tokens
        self.prefixes.add(request)
        self._note_change()

    def first_token(self, request_id: str) -> None:
        """The request's prefill is done; said again, it changes nothing."""
        reservation = self._reservations[request_id]
        if not reservation.prefill_tokens:
            return
        reservation.context_tokens = (reservation.sequences - 1) * reservation.prefill_tokens + (
            (reservation.kv_tokens + reservation.prefill_tokens) // 2
        )
        self.decoding += reservation.sequences
        self.context_tokens += reservation.context_tokens
        self.prefill_tokens -= reservation.prefill_tokens
        # The step that ended it is reported after it, so this may go below 0 for a moment.
        self._prefilled_tokens -= self._prefilling.pop(request_id)
        reservation.prefill_tokens = 0
        self._note_change()

    def release(self, request_id: str) -> None:
        """Take back all that the request has."""
        reservation = self._reservations.pop(request_id)
        self.sequences -= reservation.sequences
        self.kv_tokens -= reservation.kv_tokens
        self.context_tokens -= reservation.context_tokens
        if reservation.prefill_tokens:
            self.prefill_tokens -= reservation.prefill_tokens
            del self._prefilling[request_id]
        else:
            self.decoding -= reservation.sequences
        self._note_change()

    def report(self, load: EngineLoad, now: float) -> None:
        """Take note of what the engine reports."""
        self.load = load
        self._kv_share.report(load.preemptions, now)
        self._note_change()

    def report_step(self, step_s: float, tokens: int, contexts: int, sequences: int) -> None:
        """Take note of what the engine's last step did, and of how long it took.

        Engines prefill in order of arrival, so that what is done belongs to the oldest prompt.
        """
        self.step_model.observe(step_s, tokens, contexts, sequences)
        step_s = max(step_s, LEAST_STEP_S)
        self.recent_steps_per_s += (1 / step_s - self.recent_steps_per_s) * min(1.0, step_s / STEP_MEMORY_S)
        self._prefilled_tokens += max(0, tokens - self._decoded_tokens)
        self._decoded_tokens = self.decoding
        if not self._prefilling:
            self._prefilled_tokens = 0
        self._note_change()

    def fill_prefill_bucket(self, tokens_per_s: float, limit_tokens: float, now: float) -> None:
        """Let in the prefill that the time since the last call allows. Without any call there is no limit."""
        self.prefill_bucket.fill(tokens_per_s, limit_tokens, now)
        self._note_change()

    def take_one(self, *, only: bool) -> None:
        """Run one request at a time only, or as many as there is room for."""
        if only is not self._takes_one:
            self._takes_one = only
            self._note_change()

    def _note_change(self) -> None:
        oldest_tokens = next(iter(self._prefilling.values()), 1)
        self.pending_prefill_tokens = self.prefill_tokens - max(0, min(self._prefilled_tokens, oldest_tokens - 1))
        self.is_open = not self._reservations or (
            not self._takes_one
            and self.pending_prefill_tokens < self.capacity.prefill_tokens
            and self.sequences < self.capacity.max_sequences
            and (self.prefill_bucket.is_open or not self.decoding)
        )
        self._changed[self.worker_id] = self


def _kv_tokens(request: Request, expected_tokens: int) -> int:
    return request.prompt_tokens + request.sequences * expected_tokens


class Fleet:
    """The workers that are given requests, in order of joining, and those that rest.

    Whatever asks for workers sees the former alone; what has started on one that rests goes on there.
    """

    def __init__(self) -> None:
        self._workers: dict[str, WorkerState] = {}
        self._resting: dict[str, WorkerState] = {}
        self._changed: dict[str, WorkerState] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[WorkerState]:
        """In order of joining."""
        return iter(self._workers.values())

    def get(self, worker_id: str) -> WorkerState | None:
        """The worker of that id; None when it is not there."""
        return self._workers.get(worker_id)

    def join(self, worker_id: str, capacity: Capacity, *, on_trial: bool = False) -> None:
        """Add a worker, idle. ValueError when it is there already.

        On trial it takes one request at a time, as long as another worker is trusted: where none is, to hold back would
        protect nobody. Until it has been seen to step, it is taken to be as fast as one of the same capacity.
        """
        if self.known(worker_id):
            raise ValueError(f"worker {worker_id} has joined already")
        alike = (worker for worker in self if worker.capacity == capacity)
        worker = WorkerState(worker_id, capacity, self._changed)
        if peer := next(alike, None):
            worker.step_model = StepModel.like(peer.step_model)
        worker.on_trial = on_trial
        self._workers[worker_id] = worker
        self._weigh_trials()

    def trust(self, worker_id: str) -> None:
        """Take a worker off trial; one that is not there is ignored."""
        if worker := self.known(worker_id):
            worker.on_trial = False
            self._weigh_trials()

    def _weigh_trials(self) -> None:
        has_trusted = any(not worker.on_trial for worker in self)
        for worker in self:
            worker.take_one(only=worker.on_trial and has_trusted)

    def known(self, worker_id: str) -> WorkerState | None:
        """The worker of that id, though it may rest; None when it is not there."""
        return self._workers.get(worker_id) or self._resting.get(worker_id)

    def resting(self) -> list[WorkerState]:
        """The workers that are given nothing."""
        return list(self._resting.values())

    def rest(self, worker_id: str) -> None:
        """Give a worker nothing more. KeyError when it is not there."""
        self._move(worker_id, self._workers, self._resting)

    def wake(self, worker_id: str) -> None:
        """Give a worker requests again. KeyError when it is not there."""
        self._move(worker_id, self._resting, self._workers)

    def _move(self, worker_id: str, source: dict[str, WorkerState], target: dict[str, WorkerState]) -> None:
        if worker_id not in target:
            target[worker_id] = self._changed[worker_id] = source.pop(worker_id)
            self._weigh_trials()

    def lose(self, worker_id: str) -> WorkerState | None:
        """Take a worker out, with its ledger as it stands; None when it is not there."""
        worker = self._workers.pop(worker_id, None) or self._resting.pop(worker_id, None)
        if worker:
            self._changed[worker_id] = worker
            self._weigh_trials()
        return worker

    def take_changed(self) -> list[str]:
        """The workers that have come, changed or gone since the last call."""
        changed = list(self._changed)
        self._changed.clear()
        return changed

    def is_open(self) -> bool:
        """Whether some worker could run one sequence more now if the KV cache were without limit."""
        for worker in self._workers.values():  # noqa: SIM110 - asked for every start, and a generator takes twice as long
            if worker.is_open:
                return True
        return False

    def fits(self, request: Request) -> bool:
        """Whether some worker could run the request if it ran nothing else."""
        return any(worker.fits(request) for worker in self)
